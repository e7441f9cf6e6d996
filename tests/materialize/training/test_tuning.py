"""The same search finds the same, also when it was killed on the way; on both databases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from features.errors import SettingsError
from materialize.settings import Settings, load_settings
from materialize.training.train import train_model
from materialize.training.tuning import Search, Tuned
from materialize.training_settings import TuningSettings
from tests.materialize.training.small_tables import CUTOFF
from tests.materialize.training.test_boosting import SCHEMA, some_rows

if TYPE_CHECKING:
    from distributed import Client

    from materialize.model_bundle import ModelBundle


def write_settings(folder: Path, trials: int = 6, catalogue: str = "embedded") -> Settings:
    folder.mkdir(exist_ok=True)
    file = folder / "prescore.toml"
    file.write_text(
        "[training]\ntrees = 8\ndepth = 2\neta = 0.02\n"
        f"[tuning]\ntrials = {trials}\nstartup_trials = 2\nwarmup_rounds = 2\neta = [0.01, 0.3]\n"
        f"[catalogue]\nurl = '{catalogue}'\n"
    )
    return load_settings(file)


def search(client: Client, settings: Settings) -> tuple[Tuned, list[str]]:
    said: list[str] = []
    found = Search.open(settings, {"rows": 1})
    return found.run(client, some_rows(), some_rows(seed=1), SCHEMA, said.append), said


@pytest.fixture(scope="module")
def undisturbed(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    tuned, said = search(client, write_settings(tmp_path_factory.mktemp("undisturbed")))
    assert len(said) == 6
    assert said[0] == f"trial 1: logloss {tuned.untuned:.5f}"
    return tuned


def test_the_settings_are_tried_first_and_the_best_is_chosen(undisturbed: Tuned) -> None:
    first, *others = undisturbed.trials
    assert (first["depth"], first["eta"], first["l2"], first["ended"]) == (2, 0.02, 1, "whole")
    assert first["logloss"] == undisturbed.untuned
    assert undisturbed.best == min(row["logloss"] for row in undisturbed.trials) < undisturbed.untuned
    (best,) = [row for row in others if row["logloss"] == undisturbed.best]
    assert undisturbed.chosen == {name: best[name] for name in ("depth", "eta", "leaf_weight", "l2")}
    assert undisturbed.applied(Settings().training).depth == best["depth"]
    assert f"{undisturbed.best:.5f} on the newest window" in undisturbed.reason


def test_one_that_was_killed_finds_the_same(client: Client, undisturbed: Tuned, tmp_path: Path) -> None:
    settings = write_settings(tmp_path)
    script = Path(__file__).with_name("killed_search.py")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    address = client.scheduler_info()["address"]
    killed = subprocess.run(
        [sys.executable, script, tmp_path / "prescore.toml", address],
        env=environment,
        capture_output=True,
        check=False,
        timeout=200,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    left = Search.open(settings, {"rows": 1})
    assert left.finished() is None
    again, said = search(client, settings)
    assert (len(said), said[:3]) == (6, ["", "", ""])
    assert again == undisturbed
    assert list((settings.models_path / ".checkpoints").iterdir()) == []
    assert search(client, settings) == (again, [""] * 6), "all is known"


def test_fewer_trials_of_the_same_search_are_its_first_ones(
    client: Client, undisturbed: Tuned, postgres_url: str, tmp_path: Path
) -> None:
    few, _ = search(client, write_settings(tmp_path, trials=4, catalogue=postgres_url))
    assert few.trials == undisturbed.trials[:4]
    assert not (tmp_path / ".prescore" / "tuning.db").exists()


@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_a_training_with_a_search_is_found_again(
    settings: Settings, bundle: ModelBundle, client: Client
) -> None:
    tuning = TuningSettings(trials=3, startup_trials=1, warmup_rounds=2)
    asked = settings.model_copy(update={"tuning": tuning})
    tuned = train_model(asked, CUTOFF, client)
    assert tuned.id != bundle.id
    found, trials = tuned.lineage.parameters["tuning"], tuned.metrics["training"]["trials"]
    assert found["trials"] == len(trials) == 3
    assert found["logloss"] == min(row["logloss"] for row in trials) <= found["untuned"]
    best = min(trials, key=lambda row: row["logloss"])
    assert tuned.lineage.parameters["depth"] == best["depth"]
    assert "tuning" in {choice["name"] for choice in tuned.metrics["choices"]}
    assert train_model(asked, CUTOFF, client) == tuned


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SettingsError, match=r"pip install 'prescore\[tune\]'"):
        Search.open(write_settings(tmp_path), {})
