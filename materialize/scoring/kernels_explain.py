"""Compiled Shapley values of one pair: what each feature adds to its margin, tree by tree and leaf by leaf.

A leaf of value v is reached by a random row of the training data with the product of the cover ratios z along its
path, and by this pair if all its tests say so (o is 1 or 0). Where only the features of a set S are known, the
expected contribution of the leaf is v times o for the features in S and z for the others; a feature's Shapley
value averages what knowing it changes over all orders of the features of the path::

    phi[j] += v * (o[j] - z[j]) * sum over k of  k! (m - k - 1)! / m!  *  c[k]
    c = coefficients of the product over the other features of  (z + o x)

This is the path-dependent definition of TreeSHAP (Lundberg and others, https://arxiv.org/abs/1802.03888), which
``Booster.predict(pred_contribs=True)`` follows, without its recursion.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit as _njit

njit: Any = _njit  # its annotations know neither intrinsics nor star arguments


@njit(cache=True, nogil=True)
def explain_pair(root, left, right, place, threshold, feature, value, cover, codes, out):  # type: ignore[no-untyped-def]
    """Add every feature's contribution to ``out``.

    Args:
        root: int32[T]; ``left, right, place, feature`` int32[N], ``threshold`` int16[N], ``value, cover``
            float32[N]: the forest; ``place`` in ``codes``, ``feature`` in ``out``.
        codes: int16, the pair's whole vector.
        out: float64[features + 1]; the last is the expected margin.
    """
    deepest = 0
    for t in range(len(root)):
        deepest = max(deepest, _depth(root[t], left, right))
    path_feature = np.empty(deepest + 1, np.int32)
    z, o, c = np.empty(deepest + 1), np.empty(deepest + 1), np.empty(deepest + 2)
    node_at, side = np.empty(deepest + 1, np.int32), np.empty(deepest + 1, np.int8)
    for t in range(len(root)):
        level = 0
        node_at[0], side[0] = root[t], 0
        while level >= 0:  # depth first; side counts the children that were visited
            node = node_at[level]
            if left[node] < 0:
                _add_leaf(level, node_at, left, right, place, threshold, feature, cover, codes, path_feature, z, o, c,
                          value[node], out)  # fmt: skip
                level -= 1
            elif side[level] == 2:
                level -= 1
            else:
                child = left[node] if side[level] == 0 else right[node]
                side[level] += 1
                level += 1
                node_at[level], side[level] = child, 0


@njit(cache=True, nogil=True)
def _depth(root, left, right):  # type: ignore[no-untyped-def]
    level, depth = [root], 0
    while True:
        below = [root for _ in range(0)]
        for node in level:
            if left[node] >= 0:
                below.append(left[node])
                below.append(right[node])
        if len(below) == 0:
            return depth
        level = below
        depth += 1


@njit(cache=True, nogil=True)
def _add_leaf(  # type: ignore[no-untyped-def]
    level, node_at, left, right, place, threshold, feature, cover, codes, path_feature, z, o, c, value, out
):
    m = 0  # distinct features on the path
    for depth in range(level):
        node, child = node_at[depth], node_at[depth + 1]
        goes = left[node] if codes[place[node]] < threshold[node] else right[node]
        j = 0
        while j < m and path_feature[j] != feature[node]:
            j += 1
        if j == m:
            path_feature[m], z[m], o[m] = feature[node], 1.0, 1.0
            m += 1
        z[j] *= np.float64(cover[child]) / np.float64(cover[node]) if cover[node] > 0 else 0.0
        o[j] *= goes == child
    everything = 1.0
    for j in range(m):
        everything *= z[j]
    out[-1] += value * everything
    for j in range(m):
        if o[j] == z[j]:
            continue
        c[0], degree = 1.0, 0
        for other in range(m):
            if other != j:
                c[degree + 1] = 0.0
                for k in range(degree + 1, 0, -1):
                    c[k] = c[k] * z[other] + c[k - 1] * o[other]
                c[0] *= z[other]
                degree += 1
        weight, total = 1.0 / m, 0.0  # k! (m - k - 1)! / m! at k = 0
        for k in range(m):
            total += weight * c[k]
            if k + 1 < m:
                weight *= (k + 1) / (m - k - 1)
        out[path_feature[j]] += value * (o[j] - z[j]) * total
