"""Exact scores of every user against every item: arrays in, arrays out.

Read :mod:`~materialize.scoring.residual_program` first: it explains the idea. Then, as the data flows:
``model_reader`` → ``forest`` → ``rank_codes`` → ``partial_evaluation`` → ``block_scorer`` → ``kernels_selection``;
``pair_scorer`` and ``bound_catalogue`` are what callers see.
"""

from features.schema import ITEM, PAIR, USER, FeatureScope, affinity
from materialize.scoring.bound_catalogue import BoundCatalogue
from materialize.scoring.pair_scorer import PairScorer
from materialize.scoring.top_k import TopK

__all__ = ["ITEM", "PAIR", "USER", "BoundCatalogue", "FeatureScope", "PairScorer", "TopK", "affinity"]
