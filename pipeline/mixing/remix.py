"""Remix (Chou et al. 2020, section 4, Eq. 10): mixup whose labels lean to the rarer class.

Images as in mixup, x = λ x_i + (1 - λ) x_j with one λ ~ Beta(α, α) for a batch. The share of y_i in the loss is
    λ_y = 0  where n_i / n_j >= κ and λ < τ        (i is frequent and its share small: all label to j)
    λ_y = 1  where n_i / n_j <= 1 / κ and 1 - λ < τ  (the reverse)
    λ_y = λ  otherwise
for each pair on its own. (The BagofTricks re-implementation averages the loss over the batch before it weighs, which loses the pairing.)
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
    """alpha : of Beta(α, α); kappa, tau : the paper's κ = 3 and τ = 0.5."""

    alpha: float = Field(1.0, gt=0)
    kappa: float = Field(3.0, gt=1)
    tau: float = Field(0.5, ge=0, le=1)

    def label_share(self, own: torch.Tensor, partner: torch.Tensor, share: float) -> torch.Tensor:
        """λ_y for images of classes with `own` (b,) and `partner` (b,) training images, mixed with λ = `share`."""
        import torch

        mine = torch.full_like(own, share)
        if share < self.tau:
            mine[own >= self.kappa * partner] = 0
        if 1 - share < self.tau:
            mine[self.kappa * own <= partner] = 1
        return mine

    def build(self, class_counts: torch.Tensor) -> Callable[[torch.Tensor, np.random.Generator], Mix]:
        """A function of labels (b,) and a generator that draws partners and one weight."""
        import torch

        from pipeline.device import send
        from pipeline.network import Mix

        def draw(labels: torch.Tensor, generator: np.random.Generator) -> Mix:
            partner = send(generator.permutation(len(labels)), labels.device)
            share = generator.beta(self.alpha, self.alpha)
            own = class_counts[labels]
            label_share = self.label_share(own, own[partner], share)
            return Mix(0, partner, torch.full_like(own, 1 - share), 1 - label_share)

        return draw
