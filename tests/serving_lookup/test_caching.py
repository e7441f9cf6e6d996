"""Headers for caches: what is kept, by whom, and until when."""

from __future__ import annotations

import pytest

from materialize.settings import LookupSettings
from serving_lookup.caching import cache_control, still_holds, validator


def test_other_rules_make_another_tag() -> None:
    tags = [validator(generation, rules) for generation in ("g1", "g2") for rules in (b"", b"1", b'"2"')]
    assert len(set(tags)) == len(tags)
    assert all(tag.count(b'"') == 2 for tag in tags)


@pytest.mark.parametrize(
    ("header", "holds"),
    [
        (b'W/"g1"', True),
        (b'"g1"', True),
        (b'"g0" , "g1"', True),
        (b"*", True),
        (b'"g10"', False),
        (b"g1", False),
    ],
)
def test_tags_are_compared_weakly(header: bytes, *, holds: bool) -> None:
    assert still_holds(header, b'W/"g1"') is holds


def test_shared_caches_may_keep_what_needs_no_key() -> None:
    assert cache_control(LookupSettings()) == b"no-cache"
    assert cache_control(LookupSettings(cache_seconds=60)) == b"public, max-age=60"
    assert cache_control(LookupSettings(cache_seconds=60, api_keys=("0" * 64,))) == b"private, max-age=60"
