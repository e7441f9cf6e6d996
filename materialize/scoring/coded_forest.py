"""A forest whose tests are comparisons of rank codes: what partial evaluation and the walk of a tree read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from materialize.scoring.rank_codes import RankCodes, rank_codes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from materialize.scoring.forest import Forest


@dataclass(frozen=True)
class CodedForest:
    """Trees in order of addition; nodes of all trees in one numbering.

    Attributes:
        root: int32[T].
        left, right: int32[N]; -1 at a leaf.
        row: int32[N], row of codes that is tested; -1 at a leaf.
        threshold: int16[N]; left when the code is below it.
        default_left: bool[N], where a missing value goes.
        value: float32[N], of leaves.
        cover: float32[N], weight of the training rows that reached the node.
    """

    root: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    row: NDArray[np.int32]
    threshold: NDArray[np.int16]
    default_left: NDArray[np.bool_]
    value: NDArray[np.float32]
    cover: NDArray[np.float32]

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All arrays by name, as they are saved."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def code_forest(forest: Forest) -> tuple[RankCodes, CodedForest]:
    """Replace every test of a forest by a comparison of codes."""
    codes, row, threshold = rank_codes(forest)
    return codes, CodedForest(
        root=forest.root,
        left=forest.left,
        right=forest.right,
        row=row,
        threshold=threshold,
        default_left=forest.default_left,
        value=forest.value,
        cover=forest.cover,
    )
