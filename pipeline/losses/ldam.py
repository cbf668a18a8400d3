"""LDAM, label-distribution-aware margins (Cao et al. 2019, section 3.2), on a cosine-normalised classifier.

The network's logits are s cos(w_c, f), and the target's is lowered by s Δ_y, Δ_c = m (n_min / n_c)^(1/4): the rarest class has the full
margin m (the paper's constant C is m n_min^(1/4); s is the code's, its text has none). Only the target is lowered, as in the paper and its
code; Kang et al.'s Eq. 6 subtracts Δ from every logit. A margin means something only where logits are bounded: choosing this loss therefore
gives the network a classifier that normalises features and weights and has no bias (`cosine_scale`), in training and at test time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class Loss(Params):
    """scale : s, of the cosines; max_margin : m, 0.5 for small data sets, 0.3 for iNaturalist (as their authors say)."""

    scale: float = Field(30.0, gt=0)
    max_margin: float = Field(0.5, ge=0, le=2)

    @property
    def cosine_scale(self) -> float:
        """What the network's classifier multiplies its cosines by."""
        return self.scale

    def build(self, class_counts: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
        """A function of logits (b, c), which are s times cosines, labels (b,) and progress, giving the loss of each sample (b,), in nats.

        `class_counts` (c,) are the training images of each class, all at least 1.
        """
        import torch
        from torch.nn.functional import cross_entropy

        margins = self.scale * self.max_margin * (class_counts.min() / class_counts) ** 0.25
        classes = torch.arange(len(margins), device=margins.device)

        def loss(logits: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
            return cross_entropy(logits - (labels[:, None] == classes) * margins, labels, reduction="none")

        return loss
