"""Balanced Softmax (Ren et al. 2020, section 3.1, Eq. 4): cross-entropy of z + log n; at test time the logits are used as they are.

log n and log p differ by a constant, so it is logit adjustment at τ = 1, exactly; papers list them as two methods, and the 0.1 between
their cells is the luck of the draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class Loss(Params):
    """No parameters."""

    balances: ClassVar[bool] = True

    def build(self, class_counts: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
        """A function of logits (b, c), labels (b,) and progress, giving the loss of each sample (b,), in nats.

        `class_counts` (c,) are the training images of each class, all at least 1.
        """
        from torch.nn.functional import cross_entropy

        shift = class_counts.log()
        return lambda logits, labels, progress: cross_entropy(logits + shift, labels, reduction="none")
