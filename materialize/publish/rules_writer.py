"""Changes the serving rules of a model in the store; changes made at one time by several are all kept."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, cast
from uuid import uuid4

from features.errors import ConflictError
from materialize.publish.redis_connections import explained, open_store
from materialize.publish.serving_rules import RULES, VERSION, ServingRules, rules_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from materialize.settings import Settings

_ATTEMPTS = 20
_REPLACE = """
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'rules', ARGV[3])
return 1
"""
"""Write only what was made from what is there: atomic, and on one key, so it works on a cluster too."""


def read_rules(settings: Settings) -> ServingRules:
    """The rules that services follow now.

    Raises:
        SettingsError: If what the store holds are no rules.
        StoreError: If the store does not answer.
    """
    return change_rules(settings, lambda rules: rules)


def change_rules(settings: Settings, change: Callable[[ServingRules], ServingRules]) -> ServingRules:
    """Replace the rules by what a function makes of them.

    Args:
        settings: With a store that can be connected to.
        change: May be called more than once; if it returns what it was given, nothing is written.

    Returns:
        The rules that are in the store now.

    Raises:
        SettingsError: If the rules, old or new, cannot be followed.
        ConflictError: If others changed them again and again in the meantime.
        StoreError: If the store does not answer.
    """
    url, key = settings.store.url.get_secret_value(), rules_key(settings.project, settings.model)
    with explained(url), closing(open_store(url, settings.store.timeout_seconds)) as client:
        for _ in range(_ATTEMPTS):
            version, raw = cast("list[bytes | None]", client.hmget(key, [VERSION, RULES]))  # type: ignore[arg-type]  # keys may be bytes
            old = ServingRules.decode(raw) if raw else ServingRules()
            new = change(old)
            if new == old:
                return old
            new.check()
            if client.eval(_REPLACE, 1, key, version or b"", uuid4().hex, new.encode()):
                return new
    raise ConflictError("the serving rules are being changed by others", fix="run the command again")
