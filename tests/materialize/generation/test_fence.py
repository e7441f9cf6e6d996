"""The fence on both databases: one publisher, takeover from the dead, the deposed unmasked."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from features.errors import ConflictError
from materialize.generation import fence as fences

if TYPE_CHECKING:
    from materialize.generation.catalogue import Catalogue, Fence

_HOLD = """
import sys, time
from materialize.generation.catalogue import Catalogue
print(Catalogue.open(sys.argv[1]).acquire_fence("picks", "the other one").token, flush=True)
time.sleep(60)
"""


def test_the_second_publisher_is_told_who_holds_it(catalogue: Catalogue) -> None:
    first = catalogue.acquire_fence("picks", "the night run")
    with pytest.raises(ConflictError, match=r"published by the night run.*process \d+ on"):
        catalogue.acquire_fence("picks", "me")
    assert catalogue.acquire_fence("others", "me").token == 1
    catalogue.release_fence(first)
    assert catalogue.acquire_fence("picks", "me").token == first.token + 1


def test_one_of_many_at_once_wins(catalogue: Catalogue) -> None:
    def attempt(number: int) -> Fence | None:
        try:
            return catalogue.acquire_fence("picks", str(number))
        except ConflictError:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [f for f in pool.map(attempt, range(8)) if f]
    assert len(won) == 1


def test_a_killed_holder_is_replaced_at_once(catalogue: Catalogue, database_url: str) -> None:
    command = [sys.executable, "-c", _HOLD, database_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            token = int(holder.stdout.readline())
            with pytest.raises(ConflictError, match="the other one"):
                catalogue.acquire_fence("picks", "me")
        finally:
            holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, but still in the process table
        assert catalogue.acquire_fence("picks", "me").token == token + 1


def test_a_holder_whose_lease_has_ended_is_replaced_and_then_refused(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fences, "LEASE", timedelta(seconds=-1))
        asleep = catalogue.acquire_fence("picks", "asleep")
    taken = catalogue.acquire_fence("picks", "awake")
    with pytest.raises(ConflictError, match=r"asleep has lost.*awake"):
        catalogue.renew_fence(asleep)
    catalogue.release_fence(asleep)  # changes nothing
    catalogue.renew_fence(taken)


def test_the_lease_is_renewed_while_it_is_held(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fences, "LEASE", timedelta(seconds=0.6))
    with catalogue.hold_fence("picks", "long work"):
        threading.Event().wait(1.2)
        with pytest.raises(ConflictError, match="long work"):
            catalogue.acquire_fence("picks", "me")
    catalogue.acquire_fence("picks", "me")


def test_an_error_in_the_block_frees_the_fence(catalogue: Catalogue) -> None:
    with pytest.raises(ZeroDivisionError), catalogue.hold_fence("picks", "unlucky"):
        raise ZeroDivisionError
    catalogue.acquire_fence("picks", "me")
