"""Settings: precedence, paths, and errors that name the key and its meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from features.errors import SettingsError
from materialize.settings import load_settings
from materialize.settings_file import write_settings

if TYPE_CHECKING:
    from pathlib import Path

    from materialize.settings import Settings


def _load(folder: Path, text: str) -> Settings:
    file = folder / "prescore.toml"
    file.write_text(text)
    return load_settings(file)


def test_variable_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prescore.toml"
    file.write_text("[scoring]\nk = 7\n[training]\ndepth = 3\n")
    monkeypatch.setenv("PRESCORE_SCORING__K", "9")
    settings = load_settings(file)
    assert (settings.scoring.k, settings.training.depth, settings.training.trees) == (9, 3, 150)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "prescore.toml"
    file.write_text('warehouse = "tables"\n[events]\npath = "events.parquet"\n')
    settings = load_settings(file)
    assert settings.events.path == str(tmp_path / "events.parquet")
    assert settings.warehouse_path == tmp_path / "tables"
    assert settings.home == tmp_path / ".prescore"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[scoring]\nkk = 7\n", ["scoring.kk", "known here", "active_within_days"]),
        ("[scorin]\nk = 7\n", ["unknown key 'scorin'", "scoring"]),
        ("[scoring]\nk = 'seven'\n", ["scoring.k", "Length of a published list", "seven"]),
        ("[scoring]\nk = 0\n", ["scoring.k", "greater than or equal to 1"]),
        ('project = "my shop"\n', ["project", "letters, digits and underscores"]),
        ("[scoring\n", ["not valid TOML"]),
        ("scoring = 7\n", ["scoring: should be a section, [scoring]", "not 7"]),
        (
            "[features]\nwindows_days = [7, 0]\n",
            ["features.windows_days.1", "Windows before the cut-off", "not 0"],
        ),
        ("[features]\nhalf_lives_days = [0]\n", ["features.half_lives_days.0", "greater than 0"]),
    ],
)
def test_wrong_settings_are_named_and_explained(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        _load(tmp_path, text)
    for part in parts:
        assert part in str(error.value)


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    file = tmp_path / "prescore.toml"
    file.write_bytes(b'project = "\xff"')
    with pytest.raises(SettingsError, match="UTF-8"):
        load_settings(file)


def test_a_password_is_in_no_message(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        _load(tmp_path, "[store]\nurl = ['redis://:hunter2@db:6379']\n")
    assert "hunter2" not in str(error.value)
    with pytest.raises(SettingsError, match=r"should be a section, \[store\]") as error:
        _load(tmp_path, "store = 'redis://:hunter2@db:6379'\n")
    assert "hunter2" not in str(error.value)
    settings = _load(tmp_path, "[store]\nurl = 'redis://:hunter2@db:6379'\n")
    assert "hunter2" not in repr(settings)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="prescore init"):
        load_settings(tmp_path / "nowhere.toml")


def test_written_settings_read_back(tmp_path: Path) -> None:
    chosen = {
        "project": "shop",
        "events": {"path": 'a "b" ü.csv', "min_value": 4.0},
        "items": {"groups": ["x", "y"]},
    }
    settings = _load(tmp_path, write_settings(chosen))
    assert (settings.project, settings.events.min_value, settings.items.groups) == ("shop", 4.0, ("x", "y"))
    assert settings.events.path == str(tmp_path / 'a "b" ü.csv')
    defaults = _load(tmp_path, "")
    for name in set(type(defaults).model_fields) - {"project", "events", "items"}:
        assert getattr(settings, name) == getattr(defaults, name), name


def test_every_default_in_a_written_file_is_the_default(tmp_path: Path) -> None:
    lines = [
        line[2:] if line.startswith("# ") and " = " in line else line
        for line in write_settings({}).splitlines()
    ]
    active = "\n".join(line for line in lines if not line.startswith("#"))
    assert _load(tmp_path, active) == _load(tmp_path, "")
