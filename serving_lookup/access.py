"""Who may ask: API keys, of which the service knows only hashes."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from typing import TYPE_CHECKING

import structlog

from features.errors import SettingsError
from serving_lookup.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from materialize.settings import LookupSettings

log = structlog.get_logger()

_HASH = re.compile("[0-9a-f]{64}").fullmatch
_BEARER = b"bearer "


class KeyRing:
    """The keys that are accepted.

    A key is sent as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``. Keys are long and drawn at random, so one
    round of SHA-256 protects them at rest.

    Args:
        hashes: SHA-256 of each key, in hex; none, and no file: everyone is let in.
        file: More of them, one a line; what follows a blank is a remark. Read again by :meth:`refresh`.

    Raises:
        SettingsError: If the file cannot be read.
    """

    def __init__(self, hashes: Iterable[str], file: Path | None = None) -> None:
        self._fixed = [bytes.fromhex(text) for text in hashes]
        self._file, self._seen = file, (0, 0)
        self._hashes = self._fixed
        self.asks = bool(self._fixed) or file is not None
        """Whether a key is needed."""
        if file is not None:
            self._read(file)

    def refresh(self) -> None:
        """Follow the file if it has changed; one that cannot be read changes nothing."""
        if self._file is not None:
            try:
                self._read(self._file)
            except SettingsError as error:
                if self._seen != (0, 0):
                    log.warning("api_keys_unreadable", why=str(error))
                    self._seen = (0, 0)

    def _read(self, file: Path) -> None:
        try:
            about = file.stat()
            seen = about.st_mtime_ns, about.st_size
            if seen == self._seen:
                return
            lines = [line.split(maxsplit=1)[0] for line in file.read_text().splitlines() if line.strip()]
            if bad := [n for n, text in enumerate(lines, 1) if _HASH(text) is None]:
                raise ValueError(f"key {bad[0]} of {len(lines)} is something else")  # noqa: TRY301 - one message for all
        except (OSError, ValueError) as error:
            raise SettingsError(
                "the file of API keys cannot be read",
                expected="a SHA-256 in hex on each line",
                got=str(error),
                fix="correct lookup.api_keys_file",
            ) from error
        self._hashes = [*self._fixed, *map(bytes.fromhex, lines)]
        self._seen = seen
        log.info("api_keys_read", keys=len(self._hashes))

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
        or lookup.api_keys_file
        or lookup.anonymous
        or (lookup.anonymous is None and ipaddress.ip_address(address).is_loopback)
    ):
        return
    raise SettingsError(
        f"the service would answer anyone who reaches {address}",
        expected="lookup.api_keys or lookup.api_keys_file, or lookup.anonymous = true where something in front of it checks who asks",
        got="neither",
        fix='hash a key with: printf %s "$KEY" | sha256sum',
    )
