"""What ``prescore run`` says of the tables it read, and how it quotes an awkward id."""

from __future__ import annotations

import duckdb
import pytest

from features.sources import SourceReport
from materialize.cli.run import read_rows, sql_literal


def test_every_table_is_told_with_what_was_left_out_and_why() -> None:
    report = SourceReport({"events": 1200, "users": 7}, {"events": 100, "users": 7})
    report.drop("events", "repeated", 1000)
    report.drop("events", "unknown user", 100)
    assert read_rows(report) == [
        {
            "table": "events",
            "read": 1200,
            "kept": 100,
            "left out": 1100,
            "why": "1,000 repeated; 100 unknown user",
        },
        {"table": "users", "read": 7, "kept": 7, "left out": 0, "why": ""},
    ]


@pytest.mark.parametrize("user", ["plain", "007", "o'neil", "'; drop table x; --", 'a/b "c" 🙂'])
def test_a_text_id_is_the_same_text_in_sql(user: str) -> None:
    with duckdb.connect() as connection:
        assert connection.execute(f"select {sql_literal(user, 'string')}").fetchall() == [(user,)]


def test_a_number_is_a_number_in_sql() -> None:
    assert sql_literal("-7", "int64") == "-7"
