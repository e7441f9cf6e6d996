"""Evaluate a forest's item tests for every item, and hash-cons what is left: forest + items → residual program."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from materialize.scoring.kernels_binding import count_distinct, intern_selects
from materialize.scoring.residual_program import ResidualProgram

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from materialize.scoring.code_layout import CodeLayout
    from materialize.scoring.coded_forest import CodedForest

    Ids = NDArray[np.int32]

PASS_ROWS = 2048
"""Most rows of a pass that has more than one tree: half a megabyte at 64 lanes of float32."""
TILE_ITEMS = 512
"""Items of a pass whose trees test affinities: their rows differ by group, and would not fit the cache for all."""
ROWS_PER_ADD = 0.3
"""Rows of the table that cost as much as one more entry of every item they would save."""
ABSENT = -1


def partially_evaluate(
    forest: CodedForest,
    layout: CodeLayout,
    item_codes: NDArray[np.int16],
    group_codes: dict[str, NDArray[np.int32]],
) -> ResidualProgram:
    """Residuals of all items.

    Args:
        forest: The trees, their tests as comparisons of codes.
        layout: Where each row of codes lives.
        item_codes: int16[item rows, I], in the order of ``layout.item``.
        group_codes: int32[I] by group column; the number of groups means none.
    """
    items = item_codes.shape[1]
    tests = _Tests(forest, layout, item_codes, group_codes)
    program = _Program()
    for tiled, trees in groupby(forest.root.tolist(), key=tests.reads_groups):
        roots = list(trees)
        for first in range(0, items, TILE_ITEMS) if tiled else (0,):
            tile = np.arange(first, min(first + TILE_ITEMS, items) if tiled else items, dtype=np.int32)
            for root in roots:
                rows = _TreeRows(forest, root)
                program.add(tile, rows.used(_residual(tests, rows, root, tile)))
            program.end_pass()
    return program.arrays()


class _Tests:
    """For each node whether its test can be decided at binding, and which lane row it reads otherwise."""

    def reads_groups(self, node: int) -> bool:
        """Whether a subtree has an affinity test."""
        if self.left[node] < 0:
            return False
        return self.row[node] in self.grouped or any(
            self.reads_groups(n) for n in (self.left[node], self.right[node])
        )

    def __init__(
        self,
        forest: CodedForest,
        layout: CodeLayout,
        item_codes: NDArray[np.int16],
        group_codes: dict[str, NDArray[np.int32]],
    ) -> None:
        self.left, self.right = forest.left.tolist(), forest.right.tolist()
        self.default_left = forest.default_left.tolist()
        self.value = forest.value
        self.row, self.threshold = forest.row.tolist(), forest.threshold.tolist()
        self.item = {row: item_codes[i] for i, row in enumerate(layout.item)}
        self.pair = set(layout.pair)
        self.grouped = {row for rows in layout.affinity.values() for row in rows}
        everything = item_codes.shape[1]
        self.lane = {row: np.full(everything, i, np.int32) for i, row in enumerate(layout.user)}
        for column, rows in layout.affinity.items():
            first = layout.affinity_start(column) + group_codes[column] * len(rows)
            self.lane |= {row: (first + i).astype(np.int32) for i, row in enumerate(rows)}


def _residual(tests: _Tests, rows: _TreeRows, node: int, items: Ids) -> list[Ids]:
    """Roots of a subtree's residual for some items: a list of int32[len(items)] that are to be added."""
    if tests.left[node] < 0:
        return [np.full(len(items), rows.leaf(tests.value[node]), np.int32)]
    row, threshold = tests.row[node], tests.threshold[node]
    if row in tests.pair:
        return _residual(tests, rows, (tests.left if tests.default_left[node] else tests.right)[node], items)
    if row in tests.item:
        goes_left = tests.item[row][items] < threshold
        if goes_left.all():
            return _residual(tests, rows, tests.left[node], items)
        if not goes_left.any():
            return _residual(tests, rows, tests.right[node], items)
        left = _residual(tests, rows, tests.left[node], items[goes_left])
        right = _residual(tests, rows, tests.right[node], items[~goes_left])
        return [_merge(goes_left, _at(left, j), _at(right, j)) for j in range(max(len(left), len(right)))]
    lanes = tests.lane[row][items]
    left = _residual(tests, rows, tests.left[node], items)
    right = _residual(tests, rows, tests.right[node], items)
    roots = []
    nothing = np.full(len(items), ABSENT, np.int32)
    for j in range(max(len(left), len(right))):
        if j < len(left) and j < len(right) and _worth_combining(lanes, left[j], right[j]):
            roots.append(rows.select(lanes, threshold, left[j], right[j]))
        else:
            if j < len(left):
                roots.append(rows.select(lanes, threshold, left[j], nothing))
            if j < len(right):
                roots.append(rows.select(lanes, threshold, nothing, right[j]))
    return roots


def _at(roots: list[Ids], j: int) -> Ids | int:
    return roots[j] if j < len(roots) else ABSENT


def _merge(goes_left: NDArray[np.bool_], left: Ids | int, right: Ids | int) -> Ids:
    out = np.empty(len(goes_left), np.int32)
    out[goes_left] = left
    out[~goes_left] = right
    return out


def _worth_combining(lanes: Ids, left: Ids, right: Ids) -> bool:
    """Whether rows for the combinations cost less than one more entry of every item."""
    together, lefts, rights = count_distinct(lanes, left, right)
    return bool(together - lefts - rights <= ROWS_PER_ADD * len(lanes))


class _TreeRows:
    """The rows of one tree: its distinct leaf values, a zero, and hash-consed selections."""

    def __init__(self, forest: CodedForest, root: int) -> None:
        self.leaf_value = np.concatenate([[np.float32(0)], _leaves(forest, root)]).astype(np.float32)
        self._leaf: dict[float, int] = {float(v): i for i, v in reversed(list(enumerate(self.leaf_value)))}
        self.count = 0
        self.nodes = np.empty((4, 0), np.int32)
        self._grow(256)

    def _grow(self, size: int) -> None:
        old = self.nodes
        self.nodes = np.empty((4, size), np.int32)
        self.nodes[:, : self.count] = old[:, : self.count]
        self._slots = np.zeros(4 * size, np.int32)
        self._stale = True

    def leaf(self, value: np.float32) -> int:
        return self._leaf[float(value)]

    def select(self, lanes: Ids, threshold: int, left: Ids, right: Ids) -> Ids:
        """Rows of ``code[lane] < threshold ? left : right``; absent sides are zero, twice absent is absent."""
        out = np.empty(len(lanes), np.int32)
        while True:
            count = intern_selects(
                self._slots,
                self.nodes,
                self.count,
                len(self.leaf_value),
                self._stale,
                lanes,
                threshold,
                left,
                right,
                out,
            )
            self._stale = False
            if count >= 0:
                self.count = count
                return out
            self.count = -1 - count  # as far as there was room; what is interned stays
            self._grow(2 * self.nodes.shape[1])

    def used(self, roots: list[Ids]) -> _UsedRows:
        """The rows without leaves that no item reaches."""
        leaves, nodes = len(self.leaf_value), self.nodes[:, : self.count]
        reached = np.zeros(leaves + self.count, np.bool_)
        reached[leaves:] = True
        for ids in (nodes[2:], *roots):
            reached[ids[ids != ABSENT]] = True
        number = np.append(np.cumsum(reached) - 1, ABSENT).astype(np.int32)  # -1, absent, is the last one
        return _UsedRows(
            self.leaf_value[reached[:leaves]],
            np.concatenate([nodes[:2], number[nodes[2:]]]),
            [number[ids] for ids in roots],
        )


def _leaves(forest: CodedForest, root: int) -> NDArray[np.float32]:
    level, values = np.array([root]), []
    while len(level):
        inner = forest.left[level] >= 0
        values.append(forest.value[level[~inner]])
        level = np.concatenate([forest.left[level[inner]], forest.right[level[inner]]])
    return np.unique(np.concatenate(values))


@dataclass(frozen=True)
class _UsedRows:
    """A tree's rows for a tile of items: leaves first, then ``nodes`` int32[4, n], and roots for each item."""

    leaf_value: NDArray[np.float32]
    nodes: NDArray[np.int32]
    roots: list[Ids]


class _Program:
    """Collects trees into passes, and renumbers their rows: leaves of all trees first."""

    def __init__(self) -> None:
        self._waiting: list[_UsedRows] = []
        self._tile = np.empty(0, np.int32)
        self._rows = 0
        self._leaves: list[NDArray[np.float32]] = []
        self._nodes: list[NDArray[np.int32]] = []
        self._tiles: list[tuple[int, int]] = []
        self._starts: list[NDArray[np.int64]] = []
        self._roots: list[Ids] = []
        self._entries = 0

    def add(self, tile: Ids, rows: _UsedRows) -> None:
        """Add a tree's residuals for a tile of items; the pass that is open is of the same tile."""
        size = len(rows.leaf_value) + rows.nodes.shape[1]
        if self._rows + size > PASS_ROWS:
            self.end_pass()
        self._waiting.append(rows)
        self._tile = tile
        self._rows += size

    def end_pass(self) -> None:
        """Close the pass that is open, if one is."""
        if not self._waiting:
            return
        leaf, node = 0, sum(len(rows.leaf_value) for rows in self._waiting)
        columns, nodes = [], []
        for rows in self._waiting:
            place = partial(_renumber, leaves=len(rows.leaf_value), leaf=leaf, node=node)
            columns += [np.where(ids == ABSENT, ABSENT, place(ids)) for ids in rows.roots]
            nodes.append(np.concatenate([rows.nodes[:2], place(rows.nodes[2:])]))
            leaf += len(rows.leaf_value)
            node += rows.nodes.shape[1]
        table = np.stack(columns, axis=1)
        present = table != ABSENT
        self._starts.append(self._entries + np.concatenate([[0], np.cumsum(present.sum(axis=1))]))
        self._roots.append(table[present].astype(np.int32))
        self._entries += len(self._roots[-1])
        self._tiles.append((int(self._tile[0]), int(self._tile[-1]) + 1) if len(self._tile) else (0, 0))
        self._leaves.append(np.concatenate([rows.leaf_value for rows in self._waiting]))
        self._nodes.append(np.concatenate(nodes, axis=1))
        self._waiting, self._rows = [], 0

    def arrays(self) -> ResidualProgram:
        nodes = np.concatenate([np.empty((4, 0), np.int32), *self._nodes], axis=1)
        row, threshold, left, right = (np.ascontiguousarray(column) for column in nodes)
        tiles = np.array(self._tiles, np.int64).reshape(-1, 2)
        return ResidualProgram(
            leaf_start=_offsets([len(leaves) for leaves in self._leaves]),
            leaf_value=np.concatenate([np.empty(0, np.float32), *self._leaves]),
            node_start=_offsets([n.shape[1] for n in self._nodes]),
            node_row=row,
            node_threshold=threshold.astype(np.int16),
            node_left=left,
            node_right=right,
            first_item=np.ascontiguousarray(tiles[:, 0]),
            last_item=np.ascontiguousarray(tiles[:, 1]),
            first_start=_offsets([len(starts) for starts in self._starts])[:-1],
            root_start=np.concatenate([np.empty(0, np.int64), *self._starts]).astype(np.int64),
            root=np.concatenate([np.empty(0, np.int32), *self._roots]),
        )


def _renumber(ids: Ids, leaves: int, leaf: int, node: int) -> Ids:
    return np.where(ids < leaves, ids + leaf, ids - leaves + node).astype(np.int32)


def _offsets(sizes: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))]).astype(np.int64)
