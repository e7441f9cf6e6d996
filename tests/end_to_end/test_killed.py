"""A run that is killed or interrupted at any stage: the next one goes on and ends where an undisturbed one does."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import redis

from materialize import embedded
from materialize.settings import load_settings
from tests.end_to_end.conftest import CUTOFF, PRESCORE, Shop
from tests.shop import write_shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STAGES_TO_DIE_AFTER = (
    "read and check",
    "build features of past windows",
    "join the training set",
    "train on the cluster",
    "features as of",
    "register the views",
    "score every user",
    "commit the scored table",
    "write the look-up artifact",
    "measure the gates",
    "flip",
)
"""Beginnings of the names of stages, in order: the run is killed as soon as it reports one as done."""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    write_shop(tmp_path)
    shop = Shop(tmp_path)
    yield shop
    shop.prescore("stop")


def _run_until(shop: Shop, stage: str, sent: signal.Signals) -> int:
    """Start ``prescore run``, send a signal when ``stage`` is done; its exit code."""
    process = subprocess.Popen(
        [PRESCORE, "run", "--cutoff", CUTOFF],
        cwd=shop.folder,
        env={k: v for k, v in os.environ.items() if not k.startswith("PRESCORE_")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    with process, process.stderr:
        for line in process.stderr:
            if line.startswith(f"✓ {stage}"):
                process.send_signal(sent)
                break
        else:
            pytest.fail(f"the run ended without reporting {stage!r}")
        process.stderr.read()
    return process.returncode


def _contents(shop: Shop) -> dict[str, Any]:
    """All that is published: scored rows, and every value in the store but what says when."""
    rows = shop.json("sql", "from recommendations order by user_id, rank")
    settings = embedded.with_store(load_settings(shop.folder / "prescore.toml"))
    with redis.Redis.from_url(settings.store.url.get_secret_value()) as client:
        users = [key for key in client.scan_iter(count=1000) if not key.startswith(b"prescore:")]
        hashes = {key: client.hgetall(key) for key in users}
    return {"rows": rows, "store": hashes}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_after_each_stage_it_converges(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> None:
    for stage in STAGES_TO_DIE_AFTER:
        assert _run_until(shop, stage, signal.SIGKILL) == -signal.SIGKILL
    assert shop.json("run", "--cutoff", CUTOFF)["state"] == "live"
    folder = tmp_path_factory.mktemp("undisturbed")
    write_shop(folder)
    undisturbed = Shop(folder)
    try:
        undisturbed.json("run", "--cutoff", CUTOFF)
        assert _contents(shop) == _contents(undisturbed)
    finally:
        undisturbed.prescore("stop")
    assert not list((shop.folder / ".prescore" / "warehouse").rglob("*.aside"))


def test_an_interrupt_says_so_and_the_next_run_goes_on(shop: Shop) -> None:
    assert _run_until(shop, "build features of past windows", signal.SIGINT) == 130
    assert _run_until(shop, "score every user", signal.SIGINT) == 130
    assert shop.json("run", "--cutoff", CUTOFF)["state"] == "live"
