"""What caches between the service and its callers may keep, and how they ask whether it still holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mmh3

if TYPE_CHECKING:
    from materialize.settings import LookupSettings


def validator(generation: str, rules: bytes) -> bytes:
    """The entity tag of a precomputed list.

    Weak, because ``age_seconds`` goes on while the list stays.

    Args:
        generation: Whose list it is.
        rules: Version of the serving rules that had a part in it; empty: none.
    """
    tag = generation.encode()
    return b'W/"%b.%08x"' % (tag, mmh3.hash(rules, signed=False)) if rules else b'W/"%b"' % tag


def still_holds(none_match: bytes, etag: bytes) -> bool:
    """Whether an If-None-Match header names a tag; weakly, as RFC 9110, section 13.1.2 has it."""
    if none_match == etag:
        return True
    opaque = etag.removeprefix(b"W/")
    given = [tag.strip().removeprefix(b"W/") for tag in none_match.split(b",")]
    return opaque in given or given == [b"*"]


def cache_control(settings: LookupSettings) -> bytes:
    """The Cache-Control header of precomputed lists.

    Where keys are needed, a shared cache must not answer in the service's stead: it does not know the keys.
    """
    if not settings.cache_seconds:
        return b"no-cache"
    kind = b"private" if settings.api_keys or settings.api_keys_file else b"public"
    return b"%b, max-age=%d" % (kind, settings.cache_seconds)
