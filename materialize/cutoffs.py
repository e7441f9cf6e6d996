"""Cut-offs as people and schedulers write them."""

from __future__ import annotations

import datetime as dt

from features.errors import CallerError


def parse_cutoff(text: str) -> dt.datetime:
    """An instant in UTC, to the second, from ISO 8601 or ``20171204T000000Z``; without a zone it is UTC.

    Raises:
        CallerError: If the text is neither, or lies in the future.
    """
    try:
        cutoff = dt.datetime.fromisoformat(text)
    except ValueError:
        raise CallerError(
            "the cut-off cannot be read",
            expected="2017-12-04, 2017-12-04T06:00:00+00:00 or 20171204T000000Z",
            got=text,
        ) from None
    cutoff = cutoff.replace(tzinfo=dt.UTC) if cutoff.tzinfo is None else cutoff.astimezone(dt.UTC)
    now = dt.datetime.now(dt.UTC)
    if cutoff > now:
        raise CallerError(
            "the cut-off lies in the future",
            expected=f"an instant before {now:%Y-%m-%d %H:%M:%S} UTC: features as of a later one would be incomplete",
            got=text,
        )
    return cutoff.replace(microsecond=0)
