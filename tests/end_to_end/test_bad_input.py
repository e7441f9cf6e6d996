"""Awkward ids work from file to answer; bad input is one paragraph, and what is served stays."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.conftest import CUTOFF, Shop
from tests.shop import write_shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USERS = (
    'a/b "c" 🙂',
    "o'neil; drop",
    " lead trail ",
    "é" * 256,
    "a?b#c&d=e%2F",
    "tab\tnew\nline",
    "-[/x]",
    "007",
)
ITEMS = ('it/em "q" 🙂', "it'em", "i" * 512, "%2F..", "[b]x[/b]", "tab\titem")


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shop, dict[str, Any]]]:
    """A shop with awkward text ids, one user missing from its table, and what its run said."""
    folder = tmp_path_factory.mktemp("awkward")
    write_shop(folder, users=60, items=30)
    users = dict(enumerate(USERS, 1))
    items = dict(enumerate(ITEMS, 1000))
    for name in ("events", "users", "items"):
        table = pq.read_table(folder / f"{name}.parquet")
        for column, renamed in (("user_id", users), ("item_id", items)):
            if column in table.column_names:
                texts = [renamed.get(n, f"{column}-{n}") for n in table[column].to_pylist()]
                table = table.set_column(table.column_names.index(column), column, pa.array(texts))
        pq.write_table(table.slice(0, 59) if name == "users" else table, folder / f"{name}.parquet")
    shop = Shop(folder)
    try:
        yield shop, shop.json("run", "--cutoff", CUTOFF)
    finally:
        assert json.loads(shop.prescore("stop", "--output", "json").stdout) == {
            "ended": ["service", "valkey"]
        }


def test_awkward_ids_reach_the_answers(awkward: tuple[Shop, dict[str, Any]]) -> None:
    shop, said = awkward
    rows = shop.json("sql", "select user_id, item_id, rank from recommendations order by user_id, rank")
    lists = {user: [r["item_id"] for r in rows if r["user_id"] == user] for user in USERS}
    assert set(ITEMS) <= {row["item_id"] for row in rows}
    for user in (USERS[0], USERS[5], USERS[6]):
        answer = json.loads(shop.prescore("lookup", "-o", "json", "-k", "5", "--", user).stdout)
        assert answer["source"] == "precomputed"
        assert [item["item_id"] for item in answer["items"]] == lists[user][:5]
    assert USERS[0] in shop.prescore("lookup", USERS[0]).stdout
    events, users, _ = said["read"]
    assert users == {"table": "users", "read": 59, "kept": 59, "left out": 0, "why": ""}
    assert events["left out"] == events["read"] - events["kept"] > 0
    assert events["why"] == f"{events['left out']} unknown user"


def test_bad_input_is_told_before_any_work_and_what_is_served_stays(
    awkward: tuple[Shop, dict[str, Any]],
) -> None:
    shop, said = awkward
    for code, told, variables in (
        (2, "no column 'nam'", {"PRESCORE_ITEMS__TITLE": "nam"}),
        (2, "cannot be found", {"PRESCORE_EVENTS__PATH": "nowhere.parquet"}),
        (2, "training.trees", {"PRESCORE_TRAINING__TREES": "many"}),
        (5, "127.0.0.1:1 refused", {"PRESCORE_STORE__URL": "redis://127.0.0.1:1"}),
    ):
        failed = shop.prescore("run", "--cutoff", CUTOFF, code=code, **variables)
        assert told in failed.stderr
        assert not failed.stdout
        assert "✓" not in failed.stderr
        assert "Traceback" not in failed.stderr
    assert shop.json("lookup", USERS[1])["generation"] == said["generation"]


def test_a_folder_without_settings_says_how_to_begin(tmp_path: Path) -> None:
    failed = Shop(tmp_path).prescore("run", code=2)
    assert "prescore init" in failed.stderr
    assert not list(tmp_path.iterdir())
