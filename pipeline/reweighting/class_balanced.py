"""Class-balanced weights from the effective number of samples (Cui et al. 2019, Eq. 2 and 6): w_c ∝ (1 - β) / (1 - β^n_c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class Reweighting(Params):
    """beta : 0 weighs every class alike, towards 1 the weights approach 1 / n_c."""

    balances: ClassVar[bool] = True

    beta: float = Field(0.9999, ge=0, lt=1)

    def build(self, class_counts: torch.Tensor) -> Callable[[float], torch.Tensor]:
        """A function of training progress in [0, 1) giving the weight of each class (c,); the weights sum to c."""
        counts = class_counts.double()
        weights = (1 - self.beta) / (1 - self.beta**counts)
        weights = (weights * len(weights) / weights.sum()).float()
        return lambda progress: weights
