"""Keeps an unfinished boosting on disk, so that a training that was interrupted or killed goes on where it was.

A checkpoint is one file, written aside and renamed: a line of JSON with the SHA-256 of what follows, then
the learning curve as a line of JSON, then the booster in XGBoost's UBJSON. It is found by what the model
depends on, so another training never takes it up; a damaged one counts as none.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from features.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EVERY_SECONDS = 10.0
"""Time between two checkpoints: what an interrupt costs at most."""

STALE_SECONDS = 7 * 86_400
"""A checkpoint of a training that nobody has taken up for so long is removed by the next one that ends."""

_FOLDER = ".checkpoints"


@dataclass(frozen=True)
class Unfinished:
    """How far a boosting had come.

    Attributes:
        model: The booster's UBJSON after the rounds so far.
        curve: The metric after each of them.
    """

    model: bytes
    curve: list[float]


@dataclass(frozen=True)
class Checkpoint:
    """Where one boosting keeps its state.

    Attributes:
        path: Its file.
        every_seconds: Time between two writes; 0: after each round.
    """

    path: Path
    every_seconds: float

    @classmethod
    def of(cls, models: Path, inputs: Mapping[str, Any], phase: str) -> Checkpoint:
        """The checkpoint of a phase of the training with these inputs.

        Args:
            models: Folder of all model bundles.
            inputs: JSON values of all that decides the booster's bytes.
            phase: Tells the boostings of one training apart.
        """
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        return cls(models / _FOLDER / f"{digest}-{phase}", EVERY_SECONDS)

    def load(self) -> Unfinished | None:
        """What an earlier attempt has left; ``None`` if nothing, or nothing whole."""
        try:
            digest, _, rest = self.path.read_bytes().partition(b"\n")
            curve, _, model = rest.partition(b"\n")
            if json.loads(digest) != {"sha256": hashlib.sha256(rest).hexdigest()}:
                return None
            return Unfinished(model, [float(value) for value in json.loads(curve)])
        except (OSError, ValueError, TypeError):
            return None

    def save(self, unfinished: Unfinished) -> None:
        """Replace what is there.

        Raises:
            StorageError: If the file cannot be written.
        """
        rest = json.dumps(unfinished.curve).encode() + b"\n" + unfinished.model
        header = json.dumps({"sha256": hashlib.sha256(rest).hexdigest()}).encode()
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(header + b"\n" + rest)
            aside.replace(self.path)
        except OSError as error:
            raise StorageError.of_writing(f"the checkpoint {self.path}", error, self.path.parent) from error

    def remove(self) -> None:
        """Forget it, and what others have forgotten."""
        self.path.unlink(missing_ok=True)
        for file in self.path.parent.glob("*"):
            with suppress(OSError):
                if time.time() - file.stat().st_mtime > STALE_SECONDS:
                    file.unlink()
