import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distributed import Client

from materialize.model_bundle import ModelBundle
from materialize.training.boosting import boost, model_bytes
from materialize.training.checkpoint import STALE_SECONDS, Checkpoint, Unfinished
from materialize.training.train import train_model
from materialize.training_settings import TrainingSettings
from tests.materialize.training.small_tables import CUTOFF, grocery, write_tables
from tests.materialize.training.test_boosting import SCHEMA, some_rows

LATE = TrainingSettings(depth=4, eta=0.05, early_stopping_rounds=5)


def test_what_was_kept_is_found_and_what_is_damaged_is_not(tmp_path: Path) -> None:
    kept = Checkpoint.of(tmp_path, {"a": 1}, "final")
    assert kept.load() is None
    kept.save(Unfinished(b"{model\nwith lines", [0.5, 0.25]))
    again = Checkpoint.of(tmp_path, {"a": 1}, "final")
    assert again.load() == Unfinished(b"{model\nwith lines", [0.5, 0.25])
    others = [Checkpoint.of(tmp_path, {"a": 2}, "final"), Checkpoint.of(tmp_path, {"a": 1}, "find")]
    assert [other.load() for other in others] == [None, None]
    whole = kept.path.read_bytes()
    for damaged in (whole[:-1], whole[:40], b"", whole[:-1] + bytes([whole[-1] ^ 1]), b"\x00" + whole):
        kept.path.write_bytes(damaged)
        assert kept.load() is None
    forgotten = others[0]
    forgotten.save(Unfinished(b"m", []))
    long_ago = time.time() - STALE_SECONDS - 60
    os.utime(forgotten.path, (long_ago, long_ago))
    kept.remove()
    assert list(kept.path.parent.iterdir()) == []


def test_boosting_goes_on_where_it_was_and_gives_the_same_bytes(client: Client, tmp_path: Path) -> None:
    rows, held_out = some_rows(), some_rows(seed=1)
    whole = boost(client, rows, SCHEMA, LATE, rounds=60, validation=held_out)
    assert 10 < whole.rounds < 55
    kept = Checkpoint(tmp_path / "kept", every_seconds=0)

    # What a boosting that is killed after nine rounds leaves behind.
    boost(client, rows, SCHEMA, LATE, rounds=9, validation=held_out, checkpoint=kept)
    found = kept.load()
    assert found is not None
    assert found.curve == whole.curve[:9]
    seen: list[tuple[int, float]] = []
    again = boost(
        client,
        rows,
        SCHEMA,
        LATE,
        rounds=60,
        validation=held_out,
        on_round=lambda number, metric: seen.append((number, metric)),
        checkpoint=kept,
    )
    assert (again.rounds, again.curve) == (whole.rounds, whole.curve)
    assert model_bytes(again.booster) == model_bytes(whole.booster)
    assert seen == list(enumerate(whole.curve))[: len(seen)]
    # It had ended, but its caller was killed before it could use it: nothing is boosted again.
    finished = kept.load()
    assert finished is not None
    assert len(finished.curve) == len(whole.curve)
    third = boost(client, rows, SCHEMA, LATE, rounds=60, validation=held_out, checkpoint=kept)
    assert model_bytes(third.booster) == model_bytes(whole.booster)


@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_a_training_that_was_killed_gives_the_bundle_of_an_undisturbed_one(
    client: Client, bundle: ModelBundle, tmp_path: Path
) -> None:
    settings = write_tables(tmp_path, grocery())
    script = Path(__file__).with_name("killed_training.py")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    killed = subprocess.run(
        [sys.executable, script, tmp_path], env=environment, capture_output=True, check=False, timeout=200
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    left = sorted(path.name.rpartition("-")[2] for path in (settings.models_path / ".checkpoints").iterdir())
    assert left == ["final", "find"]
    assert list(settings.models_path.glob("[0-9a-f]*")) == []
    again = train_model(settings, CUTOFF, client)
    assert (again.id, again.model_bytes) == (bundle.id, bundle.model_bytes)
    assert again.metrics == bundle.metrics
    assert list((settings.models_path / ".checkpoints").iterdir()) == []
