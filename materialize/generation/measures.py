"""Measures the lists of a generation, and how they differ from the live ones, from the scored files.

What can be sampled is measured on a sample of whole users, the same ones in both generations, so that
the cost stays at a few seconds whatever the number of users. Of a delta, shift and churn are measured on the
lists that changed and brought into proportion to all lists, of which the others did not change at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import duckdb
    from numpy.typing import NDArray

    from materialize.generation.compared_lists import ComparedLists

TOP = 10

_CHURN = """
    WITH fresh AS (SELECT user_id, item_id FROM new_sample WHERE rank <= {k}),
         stale AS (SELECT user_id, item_id FROM old_sample WHERE rank <= {k}),
         both_have AS (SELECT DISTINCT user_id FROM fresh SEMI JOIN stale USING (user_id))
    SELECT avg(CAST(stale.item_id IS NULL AS INT)) AS changed
    FROM both_have JOIN fresh USING (user_id)
    LEFT JOIN stale ON stale.user_id = fresh.user_id AND stale.item_id = fresh.item_id
    GROUP BY fresh.user_id
"""


@dataclass(frozen=True)
class ListSamples:
    """What the report draws.

    Attributes:
        scores, live_scores: float32, of sampled users.
        churn: float64, per sampled user with a list in both generations.
        places: Top-10 places of every item that has one, commonest first.
        top_items: The commonest items, and the share of users who have each in their first ten.
    """

    scores: NDArray[np.float32]
    live_scores: NDArray[np.float32]
    churn: NDArray[np.float64]
    places: list[int]
    top_items: list[tuple[int | str, float]]


NO_SAMPLES = ListSamples(np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros(0), [], [])


@dataclass(frozen=True)
class ListMeasures:
    """What the gates look at.

    Attributes:
        rows: Rows in the files.
        users: Users with a list.
        bad_scores: Scores that are NaN or infinite.
        constant_lists: Share of sampled lists of several items whose scores are all the same.
        concentration: Share of all top-10 places that the 10 commonest items take.
        compared_users: Sampled users with a list in both generations.
        score_shift: Kolmogorov-Smirnov distance of the scores to the live generation's; ``None``: no live one.
        churn: Mean share of a list that is not in the user's live list; ``None``: no user has both.
        samples: What the last three were made of.
    """

    rows: int
    users: int
    bad_scores: int
    constant_lists: float
    concentration: float
    compared_users: int
    score_shift: float | None
    churn: float | None
    samples: ListSamples


def measure_lists(lists: ComparedLists) -> ListMeasures:
    """Measure a generation.

    Raises:
        StorageError: If a file cannot be read.
    """
    if not lists.files[0]:  # every user's list is empty, or none has changed
        compared = lists.lists if lists.has_live else 0
        nothing = 0.0 if compared else None
        return ListMeasures(0, lists.lists, 0, 0.0, 0.0, compared, nothing, nothing, NO_SAMPLES)
    with lists.open() as database:
        counted = database.execute(
            "SELECT (SELECT count(*) FROM written), count(*) FILTER (rank = 1), count(*) FILTER (NOT isfinite(score)) FROM new"
        ).fetchone() or (0, 0, 0)
        constant = database.execute(
            "SELECT avg(CAST(low = high AS INT)) FROM (SELECT min(score) AS low, max(score) AS high "
            "FROM new_sample GROUP BY user_id HAVING count(*) > 1)"
        ).fetchone()
        samples = _sample(database, lists)
    compared, shift, churn = 0, None, None
    if lists.has_live:
        compared = len(samples.churn)
        churn = float(np.sort(samples.churn).mean()) if compared else None
        shift = ks_distance(samples.scores, samples.live_scores)
    if lists.is_delta and lists.has_live:
        share = min(1.0, int(counted[1]) / max(lists.lists, 1))
        shift = share * shift if compared and shift is not None else 0.0
        churn = share * churn if churn is not None else 0.0
        compared = compared or lists.lists
    return ListMeasures(
        rows=int(counted[0]),
        users=lists.lists if lists.is_delta else int(counted[1]),
        bad_scores=int(counted[2]),
        constant_lists=_number(constant),
        concentration=sum(samples.places[:TOP]) / max(sum(samples.places), 1),
        compared_users=compared,
        score_shift=shift,
        churn=churn,
        samples=samples,
    )


def _sample(database: duckdb.DuckDBPyConnection, lists: ComparedLists) -> ListSamples:
    """Of a delta: the changed lists and what they were; places are those of all lists."""
    places = database.execute(
        "SELECT item_id, count(*) AS n FROM resolved WHERE rank <= $top GROUP BY item_id ORDER BY n DESC, item_id",
        {"top": TOP},
    ).fetchall()
    return ListSamples(
        scores=_scores(database, "new", lists.k),
        live_scores=_scores(database, "old", lists.k) if lists.has_live else NO_SAMPLES.live_scores,
        churn=_churn(database, lists.k) if lists.has_live else NO_SAMPLES.churn,
        places=[n for _, n in places],
        top_items=[(item, n / max(lists.lists, 1)) for item, n in places[: 2 * TOP]],
    )


def ks_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Largest difference of two empirical distribution functions, in 0 … 1; NaN where a sample is empty."""
    if not len(one) or not len(other):
        return float("nan")
    one, other = np.sort(one), np.sort(other)
    at = np.concatenate([one, other])
    shares = [np.searchsorted(sample, at, side="right") / len(sample) for sample in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def _scores(database: duckdb.DuckDBPyConnection, name: str, k: int) -> NDArray[np.float32]:
    query = f"SELECT score FROM {name}_sample WHERE rank <= {k} AND isfinite(score)"  # noqa: S608 - our own names
    return np.asarray(database.execute(query).fetchnumpy()["score"], np.float32)


def _churn(database: duckdb.DuckDBPyConnection, k: int) -> NDArray[np.float64]:
    return np.asarray(database.execute(_CHURN.format(k=k)).fetchnumpy()["changed"], np.float64)


def _number(row: tuple[object, ...] | None) -> float:
    return float(row[0]) if row and isinstance(row[0], int | float) else 0.0
