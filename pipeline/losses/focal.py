"""Focal loss in its softmax form (Lin et al. 2017, Eq. 4; Kang et al. 2020, Eq. 5): -(1 - p_y)^γ log p_y.

p comes from the unweighted cross-entropy, whatever the re-weighting: LDAM-DRW's class takes it from the weighted one, which is no
probability. Cui et al. (CB) write "focal" for a sum of sigmoids over classes, another loss. γ = 1 is LDAM-DRW's, 2 the original's; MFW and
GLAG copy their focal rows from tables of both, so neither is theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class Loss(Params):
    """gamma : 0 is cross-entropy; the larger, the less a well classified sample counts."""

    gamma: float = Field(1.0, ge=0)

    def build(self, class_counts: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
        """A function of logits (b, c), labels (b,) and progress, giving the loss of each sample (b,), in nats."""
        from torch.nn.functional import cross_entropy

        def loss(logits: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
            nats = cross_entropy(logits, labels, reduction="none")
            missing = -(-nats).expm1()  # 1 - p_y, exact near 0
            return missing.clamp(min=1e-12) ** self.gamma * nats  # at 0 a root (γ < 1) has no gradient

        return loss
