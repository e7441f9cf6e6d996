"""Why a pair has its score: what each feature adds to the margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Explanation:
    """Shapley values of one pair, as ``Booster.predict(pred_contribs=True)`` defines them.

    Attributes:
        names: Features, in booster order.
        contributions: float32[features]; their sum and ``expected`` make the margin.
        expected: Mean margin over the training data (of the forest), base score or latent margin included.
    """

    names: tuple[str, ...]
    contributions: NDArray[np.float32]
    expected: float

    @property
    def margin(self) -> float:
        """The pair's margin, up to rounding."""
        return self.expected + float(self.contributions.sum(dtype="float64"))
