"""From a model to scores: a forest with a scope for every feature, ready to be bound to items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import SchemaMismatchError
from features.schema import ITEM, ITEM_ID, FeatureColumn, FeatureSchema, FeatureScope
from materialize.scoring.bound_catalogue import BoundCatalogue
from materialize.scoring.code_layout import lay_out
from materialize.scoring.coded_forest import code_forest
from materialize.scoring.encode_inputs import check_ids, column_of, encode_table, positions, single
from materialize.scoring.model_reader import read_xgboost
from materialize.scoring.partial_evaluation import partially_evaluate
from materialize.scoring.treelite_reader import read_treelite

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from materialize.scoring.coded_forest import CodedForest
    from materialize.scoring.forest import Forest
    from materialize.scoring.model_reader import SavesRaw
    from materialize.scoring.rank_codes import RankCodes


@dataclass(frozen=True)
class PairScorer:
    """A forest whose features have scopes.

    Attributes:
        forest: The trees.
        schema: Its features, in booster order.
    """

    forest: Forest
    schema: FeatureSchema

    @classmethod
    def from_xgboost(
        cls, booster: SavesRaw | Path | str | bytes, schema: FeatureSchema | Mapping[str, FeatureScope]
    ) -> PairScorer:
        """A scorer of an XGBoost model.

        Args:
            booster: A ``xgboost.Booster``, a ``.ubj`` or ``.json`` file, or the bytes of one.
            schema: The features; or just their scopes by name, when all columns hold the model's numbers
                (a category its code). Names must be the booster's; if it has none, they are in its order.

        Raises:
            UnsupportedModelError: If the model cannot be scored exactly; it says why.
            SchemaMismatchError: If the schema's features are not the model's.
        """
        return cls.from_forest(read_xgboost(booster), schema)

    @classmethod
    def from_treelite(cls, model: Any, schema: FeatureSchema | Mapping[str, FeatureScope]) -> PairScorer:
        """A scorer of a LightGBM or scikit-learn model, as a ``treelite.Model``.

        Args:
            model: From ``treelite.frontend.from_lightgbm`` or ``treelite.sklearn.import_model``.
            schema: As in :meth:`from_xgboost`, in the order of the model's features: Treelite keeps no names.

        Raises:
            UnsupportedModelError: If the model cannot be scored exactly; it says why.
            SchemaMismatchError: If the schema's features are not the model's.
        """
        return cls.from_forest(read_treelite(model), schema)

    @classmethod
    def from_forest(cls, forest: Forest, schema: FeatureSchema | Mapping[str, FeatureScope]) -> PairScorer:
        """A scorer of trees that were read already; see :meth:`from_xgboost`."""
        given = isinstance(schema, FeatureSchema)  # scopes alone do not tell categories from numbers
        if isinstance(schema, Mapping):
            schema = FeatureSchema(tuple(FeatureColumn(name, scope) for name, scope in schema.items()))
        by_name = {column.name: column for column in schema.columns}
        names = forest.names or tuple(schema.names)
        missing, extra = sorted(set(names) - set(by_name)), sorted(set(by_name) - set(names))
        if missing or extra or len(names) != forest.features:
            raise SchemaMismatchError(
                "the schema's features are not the model's",
                expected=f"{forest.features} features"
                + (f"; not in the schema: {', '.join(missing)}" if missing else ""),
                got=f"{len(by_name)}" + (f"; not in the model: {', '.join(extra)}" if extra else ""),
            )
        ordered = tuple(by_name[name] for name in names)
        for index, column in enumerate(ordered):
            tests = forest.category_set[(forest.feature == index) & (forest.left >= 0)]
            is_category = index in forest.categorical or bool((tests >= 0).any())
            is_number = not is_category and len(tests) > 0
            if given and (is_category if column.vocabulary is None else is_number):
                raise SchemaMismatchError(
                    f"feature {column.name!r} differs between schema and model",
                    expected="a category with a vocabulary" if is_category else "a number",
                    got="a number" if is_category else "a category",
                )
        return cls(forest, FeatureSchema(ordered, schema.user_id_type, schema.item_id_type))

    def bind(self, items: pa.Table, latent: NDArray[np.float32] | None = None) -> BoundCatalogue:
        """Evaluate all item tests.

        Args:
            items: ``item_id``, the item features, and the group columns; its order breaks ties.
            latent: float32[I, d], the items' latent vectors; then the margin of a pair starts at the product of
                its vectors, in the base score's place, as with XGBoost's ``base_margin``.

        Raises:
            SchemaMismatchError: If the table does not fit the model.
        """
        codes, forest = self._coded
        ids = check_ids(items, ITEM_ID, "items")
        groups: dict[str, pa.Array] = {}
        group_codes: dict[str, NDArray[np.int32]] = {}
        for column in self.schema.groups:
            values = pc.cast(single(column_of(items, column, "items")), pa.string())
            known = pc.unique(values.drop_null())
            groups[column] = known.take(pc.sort_indices(known))
            code = positions(values, groups[column])
            group_codes[column] = np.where(code < 0, len(known), code).astype(np.int32)
        # Items of one group side by side, so that a tile of them reads few rows; scores do not depend on it.
        sort_by: list[NDArray[np.integer]] = [np.arange(len(ids)), *group_codes.values()]
        order = np.lexsort(sort_by).astype(np.int32)
        group_codes = {column: code[order] for column, code in group_codes.items()}
        layout = lay_out(
            codes, [c.scope for c in self.schema.columns], {c: len(v) for c, v in groups.items()}
        )
        item_codes = encode_table(codes, self.schema, ITEM, layout.item, items)[:, order]
        if latent is not None:
            latent = np.ascontiguousarray(latent, np.float32)
            if latent.ndim != 2 or len(latent) != len(ids) or not np.isfinite(latent).all():
                raise SchemaMismatchError(
                    "the items' latent vectors do not fit",
                    expected=f"finite float32[{len(ids)}, d]",
                    got=str(latent.shape),
                )
        return BoundCatalogue(
            schema=self.schema,
            objective=self.forest.objective,
            base_margin=self.forest.base_margin,
            codes=codes,
            forest=forest,
            layout=layout,
            program=partially_evaluate(forest, layout, item_codes, group_codes),
            item_ids=ids,
            order=order,
            item_codes=np.ascontiguousarray(item_codes.T),
            groups=groups,
            group_codes=group_codes,
            item_latent=None if latent is None else np.ascontiguousarray(latent[order]),
        )

    @cached_property
    def _coded(self) -> tuple[RankCodes, CodedForest]:
        return code_forest(self.forest)
