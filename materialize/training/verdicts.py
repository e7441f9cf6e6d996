"""Says in sentences what an evaluation found: where the model is better than the best baseline, and where not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

METHODS = {
    "model": "what is served",
    "forest": "what was trained; a baseline ranked better and stands in",
    "popularity": "the items with most events, the same for everybody",
    "recent_popularity": "likewise, of the last 28 days",
    "own_decayed_frequency": "what the user did most, an event 90 days old counting half",
    "pair_knn": "the model's feature alone: how near an item is to what the user had, by cosine",
    "pair_ease": "likewise, by the weights of EASE",
    "pair_als": "likewise, the product of latent vectors by ALS",
    "pair_tifu": "likewise, the user's own decayed baskets, mixed with those of similar users",
    "tifu_knn": "the user's own decayed baskets, mixed with those of similar users",
    "item_knn": "items that the same users had (cosine)",
    "ease": "weights that rebuild each user's items from the others, in closed form",
    "als": "dot products of vectors by alternating least squares",
}
"""What each method does."""

DECIDED = {
    "lift": "New items are lifted by",
    "stand_in": "A baseline stands in for the forest",
    "new_items": "Ranks new items best",
}
"""What each choice between forest and baselines decides."""

_PLACES = {"served": "as served", "new_items": "on items new to the user"}


def verdicts(metrics: Mapping[str, Any]) -> list[str]:
    """A sentence for the lists as served, and one for items that are new to the user.

    Args:
        metrics: With ``against_best`` and ``methods``.
    """
    found = []
    for part, place in _PLACES.items():
        against = metrics["against_best"][part]
        low, high = against["interval"]
        name = against["baseline"].replace("_", " ")
        gain = f"{against['gain']:+.4f} NDCG@10, 95 % {low:+.4f} to {high:+.4f}"
        found.append(
            {
                "better": f"The model ranks better than the best baseline {place}: {name} ({gain}).",
                "level": f"The model ranks as well as the best baseline {place}, within chance: {name} ({gain}).",
                "worse": f"A baseline ranks better than the model {place}: {name} ({gain}). Believe it.",
            }[against["verdict"]]
        )
    return found
