"""Measures the lists of a generation, and how they differ from the live ones, from the scored files.

What can be sampled is measured on a sample of whole users, the same ones in both generations, so that
the cost stays at a few seconds whatever the number of users.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import numpy as np

from features.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from materialize.generation.records import Generation

SAMPLED_USERS = 20_000
TOP = 10
_MEMORY = "1GB"

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
    """

    rows: int
    users: int
    bad_scores: int
    constant_lists: float
    concentration: float
    compared_users: int
    score_shift: float | None
    churn: float | None


def measure_lists(
    generation: Generation, files: Sequence[str], live: Generation | None, live_files: Sequence[str]
) -> ListMeasures:
    """Measure a generation.

    Args:
        generation: The new one.
        files: Its Parquet files: user_id, rank from 1, item_id, score float32.
        live: The one that is served, if any.
        live_files: Its files.

    Raises:
        StorageError: If a file cannot be read.
    """
    if not files:  # every user's list is empty
        return ListMeasures(0, 0, 0, 0.0, 0.0, 0, None, None)
    with _opened(generation, files, live, live_files) as (database, k):
        counted = database.execute(
            "SELECT count(*), count(*) FILTER (rank = 1), count(*) FILTER (NOT isfinite(score)) FROM new"
        ).fetchone() or (0, 0, 0)
        constant = database.execute(
            "SELECT avg(CAST(low = high AS INT)) FROM (SELECT min(score) AS low, max(score) AS high "
            "FROM new_sample GROUP BY user_id HAVING count(*) > 1)"
        ).fetchone()
        concentration = database.execute(
            "WITH places AS (SELECT count(*) AS n FROM new WHERE rank <= $top GROUP BY item_id) "
            "SELECT sum(n) FILTER (place <= $top) / sum(n) "
            "FROM (SELECT n, row_number() OVER (ORDER BY n DESC) AS place FROM places)",
            {"top": TOP},
        ).fetchone()
        compared, shift, churn = 0, None, None
        if live_files:
            changed = _churn(database, k)
            compared, churn = len(changed), float(np.sort(changed).mean()) if len(changed) else None
            shift = ks_distance(_scores(database, "new", k), _scores(database, "old", k))
    return ListMeasures(
        rows=int(counted[0]),
        users=int(counted[1]),
        bad_scores=int(counted[2]),
        constant_lists=_number(constant),
        concentration=_number(concentration),
        compared_users=compared,
        score_shift=shift,
        churn=churn,
    )


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


def list_samples(
    generation: Generation, files: Sequence[str], live: Generation | None, live_files: Sequence[str]
) -> ListSamples:
    """Sample the lists of a generation and of the live one; arguments as of :func:`measure_lists`.

    Raises:
        StorageError: If a file cannot be read.
    """
    nothing = np.zeros(0, np.float32)
    if not files:
        return ListSamples(nothing, nothing, np.zeros(0), [], [])
    with _opened(generation, files, live, live_files) as (database, k):
        places = database.execute(
            "SELECT item_id, count(*) AS n FROM new WHERE rank <= $top GROUP BY item_id ORDER BY n DESC, item_id",
            {"top": TOP},
        ).fetchall()
        users = (database.execute("SELECT count(*) FROM new WHERE rank = 1").fetchone() or (0,))[0]
        return ListSamples(
            scores=_scores(database, "new", k),
            live_scores=_scores(database, "old", k) if live_files else nothing,
            churn=_churn(database, k) if live_files else np.zeros(0),
            places=[n for _, n in places],
            top_items=[(item, n / max(users, 1)) for item, n in places[: 2 * TOP]],
        )


def ks_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Largest difference of two empirical distribution functions, in 0 … 1; NaN where a sample is empty."""
    if not len(one) or not len(other):
        return float("nan")
    one, other = np.sort(one), np.sort(other)
    at = np.concatenate([one, other])
    shares = [np.searchsorted(sample, at, side="right") / len(sample) for sample in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


@contextmanager
def _opened(
    generation: Generation, files: Sequence[str], live: Generation | None, live_files: Sequence[str]
) -> Iterator[tuple[duckdb.DuckDBPyConnection, int]]:
    """DuckDB with views ``new`` and ``old`` and samples of both; how far the lists of both go."""
    every = max(1, generation.users // SAMPLED_USERS)
    try:
        with duckdb.connect(config={"memory_limit": _MEMORY}) as database:
            _view(database, "new", files, every)
            if live_files:
                _view(database, "old", live_files, every)
            yield database, min(generation.k, live.k) if live else generation.k
    except duckdb.Error as error:
        raise StorageError(
            "the scored files cannot be measured", got=str(error).splitlines()[0], fix="publish again"
        ) from error


def _view(database: duckdb.DuckDBPyConnection, name: str, files: Sequence[str], every: int) -> None:
    database.read_parquet(list(files)).create_view(name)
    database.execute(f"CREATE VIEW {name}_sample AS SELECT * FROM {name} WHERE hash(user_id) % {every} = 0")  # noqa: S608 - our own names


def _scores(database: duckdb.DuckDBPyConnection, name: str, k: int) -> NDArray[np.float32]:
    query = f"SELECT score FROM {name}_sample WHERE rank <= {k} AND isfinite(score)"  # noqa: S608 - our own names
    return np.asarray(database.execute(query).fetchnumpy()["score"], np.float32)


def _churn(database: duckdb.DuckDBPyConnection, k: int) -> NDArray[np.float64]:
    return np.asarray(database.execute(_CHURN.format(k=k)).fetchnumpy()["changed"], np.float64)


def _number(row: tuple[object, ...] | None) -> float:
    return float(row[0]) if row and isinstance(row[0], int | float) else 0.0
