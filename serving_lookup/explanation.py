"""Why a pair has its score: what each feature adds, with its name and its value for this user and item."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from features.schema import ITEM_ID
from serving_lookup.answers import Contribution
from serving_lookup.scoring import score_pair

if TYPE_CHECKING:
    from features.schema import FeatureColumn
    from materialize.publish.lookup_artifact import LookupArtifact
    from materialize.scoring.user_batch import Keyed
    from serving_lookup.user_inputs import UserInputs


def explain_pair(
    artifact: LookupArtifact, inputs: UserInputs, item_id: int | str
) -> tuple[float, float, list[Contribution]]:
    """The margin of a pair taken apart, as ``Booster.predict(pred_contribs=True)`` does.

    Returns:
        The margin, what is expected before anything is known of the pair, and each feature's contribution, the
        largest first, ties in the model's order; all of them and what is expected add up to the margin.

    Raises:
        NotFoundError: If the item is not in the catalogue.
    """
    margin = score_pair(artifact, inputs, item_id)
    found = artifact.catalogue.explain(inputs.user, item_id, affinity=inputs.affinity, pairs=inputs.pairs)
    item = _item_row(artifact, item_id)
    parts = [
        Contribution(column.name, str(column.scope), _value(column, inputs, item, item_id), float(part))
        for column, part in zip(artifact.schema.columns, found.contributions, strict=True)
    ]
    return margin, found.expected, sorted(parts, key=lambda part: -abs(part.contribution))


def _item_row(artifact: LookupArtifact, item_id: int | str) -> dict[str, Any]:
    """What the artifact holds of an item by column; nothing if it has no row."""
    position = pc.index(artifact.items[ITEM_ID], item_id).as_py()
    row: dict[str, Any] = artifact.items.slice(position, 1).to_pylist()[0] if position >= 0 else {}
    return row


def _value(
    column: FeatureColumn, inputs: UserInputs, item: dict[str, Any], item_id: int | str
) -> float | int | str | None:
    """The value that the model saw; ``None``: missing."""
    value: Any
    if column.scope.kind == "user":
        value = inputs.user.get(column.name)
    elif column.scope.kind == "item":
        value = item.get(column.name)
    elif column.scope.kind == "affinity":
        value = _keyed_value(
            inputs.affinity.get(column.scope.group), column.name, item.get(column.scope.group)
        )
    else:
        value = _keyed_value(inputs.pairs, column.name, item_id)
    return None if isinstance(value, float) and math.isnan(value) else value


def _keyed_value(found: Keyed | None, name: str, key: object) -> Any:
    if found is None or key not in found[0] or name not in found[1]:
        return None
    # The scorer lets the last of equal keys win.
    last = len(found[0]) - 1 - list(reversed(found[0])).index(key)
    return found[1][name][last]
