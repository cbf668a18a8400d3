"""CDT, class-dependent temperatures (Ye et al. 2020): cross-entropy of z_c / a_c with a_c = (n_max / n_c)^γ.

At test time the logits are used as they are, without the temperatures. γ was chosen on a held-out set, up to 0.4 for CIFAR-10, 0.2 for
CIFAR-100 and 0.1 for iNaturalist; 0.2 is what the BagofTricks re-implementation runs for both CIFARs, and the default here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class Loss(Params):
    """gamma : 0 is cross-entropy; the larger, the more a small class has to overshoot in training."""

    gamma: float = Field(0.2, ge=0)

    def build(self, class_counts: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
        """A function of logits (b, c), labels (b,) and progress, giving the loss of each sample (b,), in nats.

        `class_counts` (c,) are the training images of each class, all at least 1.
        """
        from torch.nn.functional import cross_entropy

        temperature = (class_counts.max() / class_counts) ** self.gamma
        return lambda logits, labels, progress: cross_entropy(logits / temperature, labels, reduction="none")
