"""Which generations are kept."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

from materialize.generation.records import Generation, State
from materialize.generation.retention import superfluous

START = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)


def generation(number: int, state: State, published: int | None = None) -> Generation:
    return Generation(
        id=f"g{number}",
        model="picks",
        model_id="m",
        feature_cutoff=START,
        k=1,
        users=1,
        items=1,
        state=state,
        created_at=START + dt.timedelta(hours=number),
        published_at=None if published is None else START + dt.timedelta(hours=published),
    )


def gone(*newest_first: Generation, keep: int = 3) -> list[str]:
    return [g.id for g in superfluous(newest_first, keep)[0]]


def test_the_live_one_and_its_predecessors_stay() -> None:
    retired = [generation(n, "retired", n) for n in (4, 3, 2, 1)]
    assert gone(generation(5, "live", 5), *retired) == ["g2", "g1"]
    assert gone(generation(5, "live", 5), *retired, keep=2) == ["g3", "g2", "g1"]


def test_the_live_one_stays_however_old_it_is() -> None:
    newer = [generation(n, "retired", n) for n in (5, 4, 3)]
    assert gone(*newer, generation(1, "live", 9)) == ["g3"]


def test_predecessors_are_those_that_were_live_last() -> None:
    assert gone(
        generation(4, "live", 4),
        generation(3, "retired", 3),
        generation(2, "retired", 2),
        generation(1, "retired", 9),
    ) == ["g2"]


def test_of_unfinished_and_rejected_ones_the_newest_stays() -> None:
    assert gone(
        generation(6, "building"),
        generation(5, "rejected"),
        generation(4, "live", 4),
        generation(3, "validated"),
    ) == ["g5", "g3"]


def test_what_a_kept_delta_stands_on_stays() -> None:
    full = generation(1, "retired", 1)
    deltas = [replace(generation(n, "retired", n), kind="delta", parent=f"g{n - 1}") for n in (5, 4, 3, 2)]
    live = replace(generation(6, "live", 6), kind="delta", parent="g5")
    collected, beneath = superfluous([live, *deltas, full], 2)
    assert collected == []
    assert [g.id for g in beneath] == ["g4", "g3", "g2", "g1"]
    newer = [generation(8, "live", 8), generation(7, "retired", 7), replace(live, state="retired")]
    assert gone(*newer, *deltas, full, keep=2) == ["g6", "g5", "g4", "g3", "g2", "g1"]
