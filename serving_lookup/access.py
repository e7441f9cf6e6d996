"""Who may ask: API keys, of which the service knows only hashes."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import TYPE_CHECKING

from features.errors import SettingsError
from serving_lookup.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from materialize.settings import LookupSettings

_BEARER = b"bearer "


class KeyRing:
    """The keys that are accepted.

    A key is sent as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``. Keys are long and drawn at random, so one
    round of SHA-256 protects them at rest.

    Args:
        hashes: SHA-256 of each key, in hex; none: everyone is let in.
    """

    def __init__(self, hashes: Iterable[str]) -> None:
        self._hashes = [bytes.fromhex(text) for text in hashes]

    @property
    def asks(self) -> bool:
        """Whether a key is needed."""
        return bool(self._hashes)

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Let a request pass.

        Raises:
            Problem: 401 if it has no key that is accepted.
        """
        for name, value in headers:
            if name == b"x-api-key" or (name == b"authorization" and value[:7].lower() == _BEARER):
                given = hashlib.sha256(value if name == b"x-api-key" else value[7:].strip()).digest()
                # Every hash is compared, so that the time taken tells nothing.
                if sum([hmac.compare_digest(given, known) for known in self._hashes]):
                    return
        raise Problem(
            401, "api-key", "Send an API key that is accepted here, as 'Authorization: Bearer KEY'."
        )


def check_exposure(lookup: LookupSettings, address: str) -> None:
    """Refuse to serve strangers by accident.

    Args:
        lookup: ``[lookup]``.
        address: What will be listened on, in numbers.

    Raises:
        SettingsError: If other machines could ask without a key and nobody has said that they may.
    """
    if (
        lookup.api_keys
        or lookup.anonymous
        or (lookup.anonymous is None and ipaddress.ip_address(address).is_loopback)
    ):
        return
    raise SettingsError(
        f"the service would answer anyone who reaches {address}",
        expected="lookup.api_keys, or lookup.anonymous = true where something in front of it checks who asks",
        got="neither",
        fix='hash a key with: printf %s "$KEY" | sha256sum',
    )
