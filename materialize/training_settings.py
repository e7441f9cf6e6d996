"""Settings of the training and of the search for its parameters: sections of ``prescore.toml``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from features.settings import Section


class TrainingSettings(Section):
    """``[training]``: the recipe."""

    window_days: int = Field(28, ge=1, description="Length of a label window, in days.")
    windows: int = Field(3, ge=1, le=12, description="Past label windows to train on.")
    objective: Literal["binary:logistic", "rank:pairwise", "rank:ndcg"] = Field(
        "binary:logistic", description="XGBoost objective."
    )
    trees: int = Field(150, ge=1, description="Most boosting rounds; early stopping may end sooner.")
    depth: int = Field(4, ge=1, le=64, description="Depth of a tree.")
    eta: float = Field(0.15, gt=0, le=1, description="Learning rate.")
    leaf_weight: float | None = Field(
        None,
        ge=0,
        description="Least weight of uncertain pairs in a leaf; unset: 20, less where there are few positives.",
    )
    l2: float = Field(1, ge=0, description="Penalty on the squares of what leaves add.")
    negatives_per_positive: int = Field(
        3,
        ge=1,
        description="Uniform negatives per positive pair, beside one of each kind with pair features; weighted.",
    )
    max_rows: int = Field(
        3_000_000, ge=1000, description="Rows to train on; beyond it, users are thinned out."
    )
    external_memory: bool | None = Field(
        None,
        description="Keep the rows in files while training; unset: where they would take more than half of a worker's "
        "memory. The workers must then see the warehouse.",
    )
    early_stopping_rounds: int = Field(20, ge=1, description="Rounds without gain before training stops.")
    exclude_seen: bool | None = Field(
        None,
        description="Never recommend what the user already has; unset: decided by how often users repeat.",
    )
    seed: int = Field(0, ge=0, description="Seed of every draw.")


class TuningSettings(Section):
    """``[tuning]``: the search for parameters of ``[training]`` before a training; needs the extra 'tune'."""

    trials: int = Field(
        0, ge=0, le=10_000, description="Sets of parameters to try, those of [training] first; 0: no search."
    )
    depth: tuple[int, int] = Field((3, 8), description="Least and largest depth of a tree.")
    eta: tuple[float, float] = Field((0.05, 0.3), description="Least and largest learning rate.")
    leaf_weight: tuple[float, float] = Field((1, 100), description="Least and largest weight in a leaf.")
    l2: tuple[float, float] = Field((0.1, 30), description="Least and largest penalty on leaves.")
    startup_trials: int = Field(
        5,
        ge=1,
        description="Trials drawn at random before what was found guides the others, and bounds them.",
    )
    warmup_rounds: int = Field(
        20,
        ge=0,
        description="Rounds that a trial may take before it is given up where half of the others were better by then.",
    )

    @field_validator("depth", "eta", "leaf_weight", "l2")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("give two numbers above 0, the smaller one first")
        return value
