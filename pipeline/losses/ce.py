"""Cross-entropy, the baseline of every paper (there also "ERM" and "softmax")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class Loss(Params):
    """No parameters."""

    def build(self, class_counts: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
        """A function of logits (b, c), labels (b,) and progress, giving the loss of each sample (b,), in nats."""
        from torch.nn.functional import cross_entropy

        return lambda logits, labels, progress: cross_entropy(logits, labels, reduction="none")
