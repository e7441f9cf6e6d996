"""Writes a :class:`Forest` as an XGBoost model, so that a model from elsewhere is a bundle like any other.

A forest, whatever it was read from, compares by ``<`` with float32 thresholds, sends listed
categories to the right and has a default side: XGBoost's own terms, so nothing is approximated. The base
margin becomes a tree of one leaf, for XGBoost stores it before the link function and would round it. Nodes
are renumbered: XGBoost's predictor takes the node after the left child for the right one.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost

from features.errors import UnsupportedModelError
from materialize.scoring.forest import OBJECTIVES
from materialize.scoring.model_reader import read_xgboost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from features.schema import FeatureSchema
    from materialize.scoring.forest import Forest

_NO_PARENT = 2**31 - 1


def write_xgboost(forest: Forest, schema: FeatureSchema) -> bytes:
    """The forest as XGBoost's UBJSON, verified: read again, it is the same node for node.

    Args:
        forest: Features in the order of the schema.
        schema: Names and types.

    Raises:
        UnsupportedModelError: If XGBoost does not take it, or takes it for something else.
    """
    _refuse_broken(forest)
    forest = _siblings_together(forest)
    document = json.loads(_template(forest.objective, schema).save_raw("json"))
    ends = [*forest.root[1:].tolist(), len(forest.left)]
    trees = [_tree(forest, int(start), int(end)) for start, end in zip(forest.root, ends, strict=True)]
    if forest.base_margin != 0:
        trees.insert(0, _leaf(float(forest.base_margin)))
    for number, tree in enumerate(trees):
        size = len(tree["left_children"])
        tree |= {
            "id": number,
            "base_weights": [0.0] * size,
            "loss_changes": [0.0] * size,
            "tree_param": {
                "num_deleted": "0",
                "num_feature": str(len(schema.columns)),
                "num_nodes": str(size),
                "size_leaf_vector": "1",
            },
        }
    model = document["learner"]["gradient_booster"]["model"]
    model["trees"] = trees
    model["tree_info"] = [0] * len(trees)
    model["iteration_indptr"] = list(range(len(trees) + 1))
    model["gbtree_model_param"]["num_trees"] = str(len(trees))
    try:
        booster = xgboost.Booster(model_file=bytearray(json.dumps(document).encode()))
        raw = bytes(booster.save_raw("ubj"))
    except xgboost.core.XGBoostError as error:
        raise UnsupportedModelError(
            "XGBoost does not take these trees", got=str(error).splitlines()[0]
        ) from error
    _verify(forest, read_xgboost(raw))
    return raw


def _refuse_broken(forest: Forest) -> None:
    """Every child is a node, of one parent, and no root: then a walk from a root ends."""
    nodes = len(forest.left)
    parts = ("right", "feature", "threshold", "default_left", "category_set", "value")
    if any(len(getattr(forest, part)) != nodes for part in parts):
        raise UnsupportedModelError(
            "the model's trees are damaged", expected="as many of each part of a node"
        )
    inner = forest.left >= 0
    children = np.concatenate([forest.left[inner], forest.right[inner]])
    whole = (
        len(np.unique(children)) == len(children)
        and (not len(children) or (children.min() >= 0 and children.max() < nodes))
        and not np.isin(children, forest.root).any()
        and bool(((forest.feature[inner] >= 0) & (forest.feature[inner] < forest.features)).all())
    )
    if not whole:
        raise UnsupportedModelError(
            "the model's trees are damaged", expected="for each node at most one parent, and known features"
        )


def _siblings_together(forest: Forest) -> Forest:
    """The same trees with nodes level by level, each right child after its left one."""
    order: list[NDArray[np.int64]] = []
    for root in forest.root:
        level = np.array([root], np.int64)
        while len(level):
            order.append(level)
            inner = level[forest.left[level] >= 0]
            level = np.stack([forest.left[inner], forest.right[inner]], axis=1).ravel().astype(np.int64)
    old = np.concatenate([np.empty(0, np.int64), *order])
    new = np.full(len(forest.left) + 1, -1, np.int32)  # the last one stands for no child
    new[old] = np.arange(len(old), dtype=np.int32)
    parts = ("feature", "threshold", "default_left", "category_set", "value")
    return replace(
        forest,
        root=new[forest.root],
        left=new[forest.left[old]],
        right=new[forest.right[old]],
        # Explanations weigh by it; not every library keeps it.
        cover=forest.cover[old] if len(forest.cover) == len(old) else np.zeros(len(old), np.float32),
        **{name: getattr(forest, name)[old] for name in parts},
    )


def _template(objective: str, schema: FeatureSchema) -> xgboost.Booster:
    """A model without trees and with a base margin of 0, in the very document that the installed XGBoost writes."""
    matrix = xgboost.DMatrix(
        np.zeros((2, len(schema.columns)), np.float32),
        label=[0, 1],
        feature_names=schema.names,
        feature_types=[column.feature_type for column in schema.columns],
        enable_categorical=True,
    )
    base = next(score for score in (0.5, 0.0, 1.0) if OBJECTIVES[objective][1](score) == 0)
    return xgboost.train({"objective": objective, "base_score": base, "nthread": 1}, matrix, 0)


def _tree(forest: Forest, start: int, end: int) -> dict[str, Any]:
    left, right = forest.left[start:end], forest.right[start:end]
    inner = left >= 0
    parents = np.full(end - start, _NO_PARENT, np.int64)
    for children in (left, right):
        parents[children[inner] - start] = np.flatnonzero(inner)
    sets = forest.category_set[start:end]
    nodes = np.flatnonzero(inner & (sets >= 0))
    lists = [forest.category_sets[sets[node]].tolist() for node in nodes]
    sizes = [len(codes) for codes in lists]
    return {
        "left_children": np.where(inner, left - start, -1).tolist(),
        "right_children": np.where(inner, right - start, -1).tolist(),
        "parents": parents.tolist(),
        "split_indices": np.where(inner, forest.feature[start:end], 0).tolist(),
        "split_conditions": np.where(inner, forest.threshold[start:end], forest.value[start:end])
        .astype(np.float64)
        .tolist(),
        "split_type": (inner & (sets >= 0)).astype(int).tolist(),
        "default_left": (inner & forest.default_left[start:end]).astype(int).tolist(),
        "sum_hessian": np.nan_to_num(forest.cover[start:end]).astype(np.float64).tolist(),
        "categories": [code for codes in lists for code in codes],
        "categories_nodes": nodes.tolist(),
        "categories_segments": [sum(sizes[:n]) for n in range(len(sizes))],
        "categories_sizes": sizes,
    }


def _leaf(value: float) -> dict[str, Any]:
    return {
        "left_children": [-1],
        "right_children": [-1],
        "parents": [_NO_PARENT],
        "split_indices": [0],
        "split_conditions": [value],
        "split_type": [0],
        "default_left": [0],
        "sum_hessian": [0.0],
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
    }


def _verify(wanted: Forest, written: Forest) -> None:
    extra = len(written) - len(wanted)
    first = int(written.root[extra]) if len(wanted) else len(written.left)
    inner = wanted.left >= 0
    base = float(written.base_margin) + float(written.value[:first].sum())
    same = base == float(wanted.base_margin) and len(written.left) - first == len(wanted.left)
    if same:
        for name in ("left", "right"):
            same &= np.array_equal(
                getattr(written, name)[first:][inner] - first, getattr(wanted, name)[inner]
            )
        numeric = inner & (wanted.category_set < 0)
        same &= np.array_equal(written.left[first:] >= 0, inner)
        same &= np.array_equal(written.feature[first:][inner], wanted.feature[inner])
        same &= np.array_equal(written.default_left[first:][inner], wanted.default_left[inner])
        same &= np.array_equal(written.threshold[first:][numeric], wanted.threshold[numeric])
        same &= np.array_equal(written.value[first:][~inner], wanted.value[~inner])
        for node in np.flatnonzero(inner & (wanted.category_set >= 0)):
            codes = written.category_sets[written.category_set[first + node]]
            same &= np.array_equal(codes, wanted.category_sets[wanted.category_set[node]])
    if not same:
        raise UnsupportedModelError(
            "the model cannot be written as an XGBoost model without a change",
            expected=f"{len(wanted)} trees of {len(wanted.left)} nodes, equal node for node",
            got=f"{len(written)} trees of {len(written.left)} nodes",
        )
