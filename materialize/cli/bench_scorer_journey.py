"""The Complete Journey model of ``prescore demo``, with its items and users, as a shape of ``prescore bench scorer``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from features.schema import ITEM, ITEM_ID, PAIR, USER, USER_ID
from materialize.cli.bench_scorer_world import Shape, Users

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from features.feature_build import FeatureBuild
    from materialize.model_bundle import ModelBundle
    from materialize.scoring import BoundCatalogue

    Float32 = NDArray[np.float32]

NAME = "Complete Journey"


@dataclass(frozen=True)
class JourneyWorld:
    """A trained model with the feature build that it ranks."""

    bundle: ModelBundle
    build: FeatureBuild

    @classmethod
    def prepare(cls, folder: Path) -> JourneyWorld:
        """Train by the demo's recipe in its folder; what a demo left there is used.

        Raises:
            PrescoreError: What building features and training raise.
        """
        from materialize import walk
        from materialize.cli.demo import CUTOFF, prepare
        from materialize.cli.progress import RichProgress
        from materialize.settings import SETTINGS_FILE, load_settings

        prepare(folder)
        settings = load_settings(folder / SETTINGS_FILE)
        cutoff = walk.resolve_cutoff(settings, CUTOFF)
        with RichProgress() as progress:
            bundle = walk.train(settings, cutoff, progress)
            return cls(bundle, walk.build_features(settings, cutoff, progress))

    @cached_property
    def booster(self) -> Any:
        """The model."""
        return self.bundle.booster()

    @cached_property
    def shape(self) -> Shape:
        """Trees up to the best iteration; the depth of the one with the most leaves, as if it were even."""
        from materialize.scoring.model_reader import read_xgboost

        forest = read_xgboost(self.bundle.model_bytes)
        nodes = np.diff(np.append(forest.root, len(forest.left)))
        depth = int(np.ceil(np.log2((int(nodes.max()) + 1) // 2)))
        return Shape(len(forest), max(1, depth), required=60, aim=100, label=NAME)

    @cached_property
    def _items(self) -> Any:
        return self.build.read_items()

    @property
    def items(self) -> int:
        """Candidates."""
        return int(self._items.num_rows)

    def bind(self) -> BoundCatalogue:
        """The catalogue that is measured."""
        from materialize.scoring import PairScorer

        return PairScorer.from_xgboost(self.bundle.model_bytes, self.bundle.schema).bind(self._items)

    def users(self, count: int, seed: int = 0) -> Users:
        """At most ``count`` of the households, some of them by seed."""
        import pyarrow.compute as pc

        everybody = self.build.read_users()
        some = everybody.slice(seed * count % max(1, everybody.num_rows - count), count)

        def theirs(table: Any) -> Any:
            return table.filter(pc.is_in(table[USER_ID], some[USER_ID].combine_chunks()))

        groups = self.bundle.schema.groups
        inputs = {
            "affinity": {group: theirs(self.build.read_affinity(group)) for group in groups},
            "pairs": theirs(self.build.read_pairs()),
        }
        return Users(some, inputs)

    def one(self) -> dict[str, Any]:
        """Arguments of ``top_k_one`` for one household, with its affinities and pairs."""
        import pyarrow.compute as pc

        everybody = self.users(1, seed=3)
        user = everybody.table[USER_ID][0]
        schema, inputs = self.bundle.schema, everybody.inputs

        def keyed(table: Any, key: str) -> Any:
            mine = table.filter(pc.equal(table[USER_ID], user))
            names = [name for name in schema.names if name in mine.column_names]
            return mine[key].to_pylist(), {name: mine[name].to_pylist() for name in names}

        return {
            "user_features": {
                c.name: everybody.table[c.name][0].as_py() for c in schema.columns if c.scope == USER
            },
            "affinity": {group: keyed(table, group) for group, table in inputs["affinity"].items()},
            "pairs": keyed(inputs["pairs"], ITEM_ID),
        }

    def cross(self, users: Users, count: int) -> tuple[Float32, None]:
        """The explicit matrix of the first users against all items: float32[n * I, features]."""
        from materialize.scoring.encode_inputs import positions, single

        some, items = users.table.slice(0, count), self._items
        ids = single(some[USER_ID])
        out = np.full((count, self.items, len(self.bundle.schema.columns)), np.nan, np.float32)
        for at, column in enumerate(self.bundle.schema.columns):
            if column.scope == USER:
                out[:, :, at] = column.encode(some[column.name])[:, None]
            elif column.scope == ITEM:
                out[:, :, at] = column.encode(items[column.name])
            else:
                pair = column.scope == PAIR
                table = users.inputs["pairs"] if pair else users.inputs["affinity"][column.scope.group]
                key = ITEM_ID if pair else column.scope.group
                groups = items[key].unique().drop_null()
                user, entry = positions(table[USER_ID], ids), positions(table[key], single(groups))
                known = (user >= 0) & (entry >= 0)
                dense = np.full((count, len(groups)), np.nan, np.float32)
                dense[user[known], entry[known]] = column.encode(table[column.name])[known]
                group_of = positions(items[key], single(groups))
                out[:, :, at] = np.where(group_of >= 0, dense[:, group_of], np.nan)
        return out.reshape(count * self.items, -1), None

    @property
    def training(self) -> tuple[Float32, Float32, None]:
        """Matrix and labels (whether the model likes a pair better than most) for a peer of the same size."""
        matrix, _ = self.cross(self.users(16), 16)
        margin = self.booster.inplace_predict(matrix, predict_type="margin")
        return matrix, (margin > np.quantile(margin, 0.9)).astype(np.float32), None
