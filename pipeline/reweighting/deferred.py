"""DRW, deferred re-weighting (Cao et al. 2019, LDAM, section 3.3): all alike at first, class-balanced weights for the rest.

The paper writes 1 / n; its code, which everyone compares with, uses the class-balanced weights of Cui et al. 2019 with β = 0.9999 from
epoch 160 of 200, and so do we. The formula stands here once more so that each method's file is whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class Reweighting(Params):
    """start : share of training after which the weights apply; beta : of the effective number (reweighting/class_balanced.py)."""

    balances: ClassVar[bool] = True

    start: float = Field(0.8, ge=0, lt=1)
    beta: float = Field(0.9999, ge=0, lt=1)

    def build(self, class_counts: torch.Tensor) -> Callable[[float], torch.Tensor]:
        """A function of training progress in [0, 1) giving the weight of each class (c,); the weights sum to c."""
        import torch

        counts = class_counts.double()
        weights = (1 - self.beta) / (1 - self.beta**counts)
        weights = (weights * len(weights) / weights.sum()).float()
        ones = torch.ones_like(weights)
        return lambda progress: weights if progress >= self.start else ones
