"""A small shop that has been through the whole walk once, by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from materialize.progress import NoProgress
from tests.shop import write_shop

if TYPE_CHECKING:
    from collections.abc import Iterator

CUTOFF = "2024-07-01"
PRESCORE = Path(sys.executable).parent / "prescore"


@dataclass(frozen=True)
class Shop:
    """A folder with three tables and a prescore.toml."""

    folder: Path

    def prescore(self, *arguments: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the installed command in the folder, as a user would."""
        done = subprocess.run(
            [PRESCORE, *arguments],
            cwd=self.folder,
            env={k: v for k, v in os.environ.items() if not k.startswith("PRESCORE_")} | variables,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str) -> Any:
        """What the command prints with ``--output json``."""
        return json.loads(self.prescore(*arguments, "--output", "json").stdout)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, dict[str, Any]]]:
    """The shop, and what its first ``prescore run`` said."""
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    shop = Shop(folder)
    try:
        yield shop, shop.json("run", "--cutoff", CUTOFF)
    finally:
        shop.prescore("stop")


@pytest.fixture
def progress() -> NoProgress:
    """Reports to nobody."""
    return NoProgress()
