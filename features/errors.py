"""Every error that Prescore raises on purpose, as one tree.

::

    PrescoreError
    ├── CallerError                the caller can mend it; nothing that is served has changed
    │   ├── SettingsError          prescore.toml or a PRESCORE_ variable
    │   ├── SourceError            the events, users or items table
    │   ├── SchemaMismatchError    features, model and catalogue do not fit together
    │   ├── UnsupportedModelError  a model that cannot be scored exactly
    │   └── NotFoundError          no such model, generation, user or item
    ├── GateRejectedError          a generation was measured and found wanting
    ├── ConflictError              another publisher holds the fence
    └── RetryableError             the same call may succeed later
        ├── StoreError             the key-value store: unreachable, full, read-only, refused
        └── StorageError           the warehouse or the catalogue database

It lives in ``features`` because that is the lowest package: every other one may import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class PrescoreError(Exception):
    """A failure that is explained in one paragraph.

    Args:
        what: What went wrong, as a sentence without its full stop.
        expected: What was expected, if that helps.
        got: What came instead.
        fix: What the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, expected: str = "", got: str = "", fix: str = "") -> None:
        self.what, self.expected, self.got, self.fix = what, expected, got, fix
        parts = [what.rstrip(".") + "."]
        if expected:
            parts.append(f"Expected: {expected.rstrip('.')}.")
        if got:
            parts.append(f"Got: {got.rstrip('.')}.")
        if fix:
            parts.append(f"To do: {fix.rstrip('.')}.")
        super().__init__(" ".join(parts))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the journey from a Dask worker: keyword arguments are lost by the default."""
        return (_rebuild, (type(self), self.what, self.expected, self.got, self.fix))


def _rebuild(kind: type[PrescoreError], what: str, expected: str, got: str, fix: str) -> PrescoreError:
    return kind(what, expected=expected, got=got, fix=fix)


class CallerError(PrescoreError):
    """The caller can mend it; nothing that is served has changed."""

    exit_code = 2


class SettingsError(CallerError):
    """A wrong value in prescore.toml or in a PRESCORE_ variable."""


class SourceError(CallerError):
    """The events, users or items table is not what the settings say it is."""


class SchemaMismatchError(CallerError):
    """Features, model and catalogue do not fit together."""


class UnsupportedModelError(CallerError):
    """A model that cannot be scored exactly is refused rather than mis-scored."""


class NotFoundError(CallerError):
    """No such model, generation, user or item."""


class GateRejectedError(PrescoreError):
    """A generation was measured and found wanting; what is served has not changed."""

    exit_code = 3


class ConflictError(PrescoreError):
    """Another publisher holds the fence."""

    exit_code = 4


class RetryableError(PrescoreError):
    """The same call may succeed later."""

    exit_code = 5


class StoreError(RetryableError):
    """The key-value store is unreachable, full, read-only, or refused the command."""


class StorageError(RetryableError):
    """The warehouse or the catalogue database cannot be read or written."""

    @classmethod
    def of_writing(cls, what: str, error: OSError, place: Path) -> StorageError:
        """What cannot be written, why, and where there may be too little space."""
        return cls(
            f"{what} cannot be written",
            got=str(error),
            fix=f"free space on the disk of {place}, or mend its permissions; then run again",
        )
