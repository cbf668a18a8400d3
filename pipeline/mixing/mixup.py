"""mixup (Zhang et al. 2018): images of a batch are mixed with those of a permutation of it, and so are their labels.

x = λ x_i + (1 - λ) x_j, loss λ L(y_i) + (1 - λ) L(y_j), λ ~ Beta(α, α). One λ for a batch, as in the paper's code and in that of all
long-tailed work that compares with it. Images are mixed after augmentation and normalisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

    from pipeline.network import Mix


class Mixing(Params):
    """alpha : 1 for CIFAR, 0.2 for ImageNet (the paper's, and MiSLAS's for their long-tailed forms)."""

    alpha: float = Field(1.0, gt=0)

    def build(self, class_counts: torch.Tensor) -> Callable[[torch.Tensor, np.random.Generator], Mix]:
        """A function of labels (b,) and a generator that draws partners and one weight."""
        from pipeline.device import send
        from pipeline.network import Mix

        def draw(labels: torch.Tensor, generator: np.random.Generator) -> Mix:
            partner = send(generator.permutation(len(labels)), labels.device)
            weight = class_counts.new_full((len(labels),), 1 - generator.beta(self.alpha, self.alpha))
            return Mix(0, partner, weight, weight)

        return draw
