"""Cut-offs as people and schedulers write them."""

from __future__ import annotations

import datetime as dt

from features.errors import CallerError


def parse_cutoff(text: str) -> dt.datetime:
    """An instant in UTC, to the second, from ISO 8601 or ``20171204T000000Z``; without a zone it is UTC.

    Raises:
        CallerError: If the text is neither, or lies in the future.
    """
    cutoff = parse_instant(text, "the cut-off")
    now = dt.datetime.now(dt.UTC)
    if cutoff > now:
        raise CallerError(
            "the cut-off lies in the future",
            expected=f"an instant before {now:%Y-%m-%d %H:%M:%S} UTC: features as of a later one would be incomplete",
            got=text,
        )
    return cutoff.replace(microsecond=0)


def parse_instant(text: str, what: str) -> dt.datetime:
    """An instant in UTC from ISO 8601; without a zone it is UTC.

    Args:
        text: Such as ``2017-12-04T06:00:00+00:00``.
        what: Names it in the message.

    Raises:
        CallerError: If the text is none.
    """
    try:
        instant = dt.datetime.fromisoformat(text)
    except ValueError:
        raise CallerError(
            f"{what} cannot be read",
            expected="2017-12-04, 2017-12-04T06:00:00+00:00 or 20171204T000000Z",
            got=text,
        ) from None
    return instant.replace(tzinfo=dt.UTC) if instant.tzinfo is None else instant.astimezone(dt.UTC)
