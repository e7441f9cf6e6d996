r"""What is left of a forest when the items are known: the idea of the scorer, and its data.

In a user x item cross product every test of a tree reads a user feature or an item feature. The items are
few and known long before the users, so their tests are decided once, when the catalogue is bound::

            a tree                     for item 7                  for item 8
                                      (cheap, red)                (dear, red)

          u.age < 30                   u.age < 30                   u.age < 30
         /          \                  /         \                 /         \
    i.price < 9    u.men < 1        +0.4      u.men < 1          -0.1     u.men < 1
     /     \        /     \                    /     \                    /     \
   +0.4   -0.1   i.red    -0.2             +0.3    -0.2             +0.3    -0.2
                  /  \
               -0.3  +0.3

What remains for an item is a decision diagram over *user* features, the item's *residual*. Equal parts are
stored once (hash-consing): the right half above serves both items, and items that fall together in a
tree share everything. One more observation makes it fast: a diagram whose nodes are ordered children first
can be evaluated for 64 users at once by one pass over its nodes, without a branch::

    table[leaf] = value                                       for each leaf
    table[node] = select(code[row] < threshold, table[left], table[right])      64 lanes each

    score[item] = table[root of tree 1] + table[root of tree 2] + ...           64 lanes each

The first loop is some hundred rows per tree, whatever the number of items; the second is one contiguous
load and add per tree and item. The cross product is never built. Rows are added in the order of the
trees, so the float32 sums are those of XGBoost, bit for bit.

Trees are taken in *passes* whose rows fit into the L2 cache; sums wait in an accumulator in between.
A residual may also be a sum of several roots, each of them 0 where another one counts: where a tree has
so many user tests that combinations abound, its halves get rows of their own (*virtual subtrees*):
one more add per item instead of many more rows. Adding zeros changes no bit.

*Affinity* features are user features once per group: a test of ``f`` by an item of group ``g`` reads the row
``f@g``. *Pair* features are missing for nearly all pairs: residuals assume so, and the few pairs that
have values are scored again, 64 of them as lanes (:mod:`~materialize.scoring.kernels_pairs`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ResidualProgram:
    """The residuals of all items; P passes, L leaf rows, N node rows, I items, E entries.

    A row number counts within its pass: first the leaves, then the nodes, children before parents.

    Attributes:
        leaf_start: int64[P + 1], the leaves of each pass.
        leaf_value: float32[L].
        node_start: int64[P + 1], the nodes of each pass.
        node_row: int32[N], row of codes that a node tests.
        node_threshold: int16[N]; a user goes left when the code is below it.
        node_left, node_right: int32[N], rows of the pass.
        first_item, last_item: int64[P], the items of each pass; a pass of trees with affinity tests has a tile of
            them, of few groups, and all passes of such trees together have all items.
        first_start: int64[P], where in ``root_start`` a pass begins.
        root_start: int64, for each pass and item of it where its entries begin, and where the last one's end.
        root: int32[E], rows of the pass to add, in order of the trees.
    """

    leaf_start: NDArray[np.int64]
    leaf_value: NDArray[np.float32]
    node_start: NDArray[np.int64]
    node_row: NDArray[np.int32]
    node_threshold: NDArray[np.int16]
    node_left: NDArray[np.int32]
    node_right: NDArray[np.int32]
    first_item: NDArray[np.int64]
    last_item: NDArray[np.int64]
    first_start: NDArray[np.int64]
    root_start: NDArray[np.int64]
    root: NDArray[np.int32]

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All arrays by name, as they are saved."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def widest_pass(self) -> int:
        """Rows of the largest pass: the height of a kernel's table."""
        rows = np.diff(self.leaf_start) + np.diff(self.node_start)
        return int(rows.max(initial=1))

    @property
    def rows(self) -> int:
        """Rows of all passes: what one block of users costs before any item."""
        return len(self.leaf_value) + len(self.node_row)
