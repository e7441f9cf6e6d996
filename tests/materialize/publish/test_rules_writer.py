"""Serving rules in a real store: changed from the command line, and by several at one time."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from pydantic import SecretStr

from features.errors import SettingsError
from materialize.cli.main import main
from materialize.publish.rules_writer import change_rules, read_rules
from materialize.publish.serving_rules import Arm, ServingRules
from materialize.settings import Settings, StoreSettings

if TYPE_CHECKING:
    from pathlib import Path


def settings_of(store_url: str) -> Settings:
    return Settings(project="shop", model="ruled", store=StoreSettings(url=SecretStr(store_url)))


def test_changes_of_several_are_all_kept(store_url: str) -> None:
    settings = settings_of(store_url)
    assert read_rules(settings) == ServingRules()

    def add(item: int) -> None:
        change_rules(settings, lambda rules: msgspec.structs.replace(rules, deny=(*rules.deny, item)))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(12)))
    assert set(read_rules(settings).deny) == set(range(12))
    with pytest.raises(SettingsError, match="no arm has users"):
        change_rules(settings, lambda rules: msgspec.structs.replace(rules, arms=(Arm(model="a", weight=0),)))
    assert read_rules(settings).arms == ()


def test_rules_from_the_command_line(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("STORE__URL", store_url), ("PROJECT", "shop"), ("MODEL", "cli")):
        monkeypatch.setenv(f"PRESCORE_{name}", value)
    (tmp_path / "sold_out.txt").write_text("a 1\n\nb\nc\n")

    def run(*arguments: str, code: int = 0) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["prescore", "rules", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code, capsys.readouterr().err
        return json.loads(capsys.readouterr().out) if not code else {}

    json_ = ("-o", "json")
    assert run("items", "unavailable", "--file", "sold_out.txt", *json_)["unavailable"] == ["a 1", "b", "c"]
    assert run("items", "unavailable", "--remove", "b", "--add", "d", *json_)["unavailable"] == [
        "a 1",
        "c",
        "d",
    ]
    assert run("items", "allow", "--add", "x", *json_)["allow"] == ["x"]
    assert run("items", "allow", "--clear", *json_)["allow"] is None
    assert run("cap", "category=3", *json_)["at_most"] == {"category": 3}
    split = run("arms", "cli=90", "challenger=10:base", "--experiment", "spring", *json_)
    assert [(arm["model"], arm["weight"], arm["absent"]) for arm in split["arms"]] == [
        ("cli", 90, "score"),
        ("challenger", 10, "base"),
    ]
    run("arms", "cli=", code=2)
    run("cap", "category", code=2)
    run("items", "deny", "--file", "nowhere.txt", code=2)
    assert run("show", *json_) == split
    assert run("clear", *json_) == json.loads(ServingRules().encode())
