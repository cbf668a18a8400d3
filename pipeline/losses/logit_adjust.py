"""Logit adjustment as a loss (Menon et al. 2021, Eq. 10): cross-entropy of z + τ log p, p_y being the class's share of the training images.

At test time the logits are used as they are. The same paper's other form, τ log p subtracted from a trained network, needs no training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class Loss(Params):
    """tau : 1 is consistent for the balanced error; GLAG's table 1 also has 0.5 and 1.5."""

    balances: ClassVar[bool] = True

    tau: float = Field(1.0, ge=0)

    def build(self, class_counts: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
        """A function of logits (b, c), labels (b,) and progress, giving the loss of each sample (b,), in nats.

        `class_counts` (c,) are the training images of each class, all at least 1.
        """
        from torch.nn.functional import cross_entropy

        shift = self.tau * (class_counts / class_counts.sum()).log()
        return lambda logits, labels, progress: cross_entropy(logits + shift, labels, reduction="none")
