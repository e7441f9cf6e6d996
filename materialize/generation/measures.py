"""Measures the lists of a generation, and how they differ from the live ones, from the scored files.

What can be sampled is measured on a sample of whole users, the same ones in both generations, so that
the cost stays at a few seconds whatever the number of users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import numpy as np

from features.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from materialize.generation.records import Generation

SAMPLED_USERS = 20_000
TOP = 10
_MEMORY = "1GB"


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
    every = max(1, generation.users // SAMPLED_USERS)
    with duckdb.connect(config={"memory_limit": _MEMORY}) as database:
        try:
            _view(database, "new", files, every)
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
            if live is not None and live_files:
                _view(database, "old", live_files, every)
                k = min(generation.k, live.k)
                compared, churn = _churn(database, k)
                shift = ks_distance(_scores(database, "new", k), _scores(database, "old", k))
        except duckdb.Error as error:
            raise StorageError(
                "the scored files cannot be measured", got=str(error).splitlines()[0], fix="publish again"
            ) from error
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


def ks_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Largest difference of two empirical distribution functions, in 0 … 1; NaN where a sample is empty."""
    if not len(one) or not len(other):
        return float("nan")
    one, other = np.sort(one), np.sort(other)
    at = np.concatenate([one, other])
    shares = [np.searchsorted(sample, at, side="right") / len(sample) for sample in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def _view(database: duckdb.DuckDBPyConnection, name: str, files: Sequence[str], every: int) -> None:
    database.read_parquet(list(files)).create_view(name)
    database.execute(f"CREATE VIEW {name}_sample AS SELECT * FROM {name} WHERE hash(user_id) % {every} = 0")  # noqa: S608 - our own names


def _scores(database: duckdb.DuckDBPyConnection, name: str, k: int) -> NDArray[np.float32]:
    query = f"SELECT score FROM {name}_sample WHERE rank <= {k} AND isfinite(score)"  # noqa: S608 - our own names
    return np.asarray(database.execute(query).fetchnumpy()["score"], np.float32)


def _churn(database: duckdb.DuckDBPyConnection, k: int) -> tuple[int, float | None]:
    row = database.execute(
        f"""
        WITH fresh AS (SELECT user_id, item_id FROM new_sample WHERE rank <= {k}),
             stale AS (SELECT user_id, item_id FROM old_sample WHERE rank <= {k}),
             both_have AS (SELECT DISTINCT user_id FROM fresh SEMI JOIN stale USING (user_id))
        SELECT count(*), avg(changed) FROM (
            SELECT avg(CAST(stale.item_id IS NULL AS INT)) AS changed
            FROM both_have JOIN fresh USING (user_id)
            LEFT JOIN stale ON stale.user_id = fresh.user_id AND stale.item_id = fresh.item_id
            GROUP BY fresh.user_id)
        """  # noqa: S608 - k is a number
    ).fetchone()
    if row is None or not row[0]:
        return 0, None
    return int(row[0]), float(row[1])


def _number(row: tuple[object, ...] | None) -> float:
    return float(row[0]) if row and isinstance(row[0], int | float) else 0.0
