"""One user's inputs through the bound catalogue of an artifact."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from features.errors import NotFoundError

if TYPE_CHECKING:
    from materialize.publish.lookup_artifact import LookupArtifact
    from materialize.scoring import TopK
    from materialize.scoring.user_batch import Keyed
    from serving_lookup.user_inputs import UserInputs


def score_list(artifact: LookupArtifact, inputs: UserInputs) -> tuple[list[int | str], list[float]]:
    """The list that a full run would publish for this user: item ids and margins, best first.

    Items that the user had are left out where the artifact says so.
    """
    exclude = _seen(inputs.pairs) if artifact.exclude_seen and inputs.pairs is not None else None
    found = artifact.catalogue.top_k_one(
        inputs.user, artifact.k, affinity=inputs.affinity, pairs=inputs.pairs, exclude=exclude
    )
    count = int(found.counts[0])
    return found.item_ids[0, :count].tolist(), found.scores[0, :count].tolist()


def _seen(pairs: Keyed) -> list[Any]:
    """Of the items with pair features, those with events; the others are near to what the user had."""
    items, features = pairs
    events = features.get("pair_events")
    if events is None:
        return list(items)
    return [
        item
        for item, count in zip(items, events, strict=True)
        if count is not None and not math.isnan(float(count))
    ]


def score_pair(artifact: LookupArtifact, inputs: UserInputs, item_id: int | str) -> float:
    """The margin of one user and one item, whether or not the user has it already.

    Raises:
        NotFoundError: If the item is not in the catalogue.
    """
    ids = artifact.catalogue.item_ids
    position = ids.index(pa.scalar(item_id, ids.type)).as_py()
    if position < 0:
        raise NotFoundError(
            f"item {item_id!r} is not in the catalogue of generation {artifact.generation}",
            fix="ask for an item that was a candidate when the generation was made",
        )
    only = np.zeros(len(artifact.catalogue), np.bool_)
    only[position] = True
    found: TopK = artifact.catalogue.top_k_one(
        inputs.user, 1, affinity=inputs.affinity, pairs=inputs.pairs, eligible=only
    )
    return float(found.scores[0, 0])
