"""GraLoss, the gradual balanced loss (Zhang and Xiang 2022, GLAG, section 4.1, Eq. 3-4).

Cross-entropy on logits that are shifted by α log p_y, where p_y is the class's share of the training images and α grows from 0 over
training: α = s (c^ep - 1), ep = T / T_max. It starts as cross-entropy and ends, for c = 2 and s = 1, as logit adjustment with τ = 1.
The logits are used as they are at test time. T is the whole epoch, counted from 0, so α starts at exactly 0 (the paper does not say).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class Loss(Params):
    """c : base of the schedule, > 1 (convex; the paper's best is 2); s : its scale (1; 0.5 for iNaturalist)."""

    c: float = Field(2.0, gt=1)
    s: float = Field(1.0, gt=0)

    def alpha(self, progress: float) -> float:
        """α of Eq. 3 at a training progress in [0, 1)."""
        return self.s * (self.c**progress - 1)

    def build(self, class_counts: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
        """A function of logits (b, c), labels (b,) and progress, giving the loss of each sample (b,), in nats.

        `class_counts` (c,) are the training images of each class, all at least 1.
        """
        from torch.nn.functional import cross_entropy

        log_prior = (class_counts / class_counts.sum()).log()

        def loss(logits: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
            return cross_entropy(logits + self.alpha(progress) * log_prior, labels, reduction="none")

        return loss
