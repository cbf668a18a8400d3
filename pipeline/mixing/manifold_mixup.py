"""Manifold mixup (Verma et al. 2019): mixup behind a group of layers that is drawn anew for every batch; labels are mixed as in mixup.

The paper draws from the input and the places behind the first two of a ResNet's residual stages, with α = 2; [0, 2, 3] are these places
here. Their code minimises binary cross-entropy of the softmax, here it is the loss that `train` names. The papers on long tails do not say
what they take: the BagofTricks re-implementation has one fixed place and α = 1, which is a list of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

    from pipeline.network import Mix


class Mixing(Params):
    """after : numbers of groups before the mixing, each equally likely (0 = the images); alpha : of Beta(α, α)."""

    after: list[Annotated[int, Field(ge=0)]] = Field([0, 2, 3], min_length=1)
    alpha: float = Field(2.0, gt=0)

    def build(self, class_counts: torch.Tensor) -> Callable[[torch.Tensor, np.random.Generator], Mix]:
        """A function of labels (b,) and a generator that draws a place, partners and one weight."""
        from pipeline.device import send
        from pipeline.network import Mix

        def draw(labels: torch.Tensor, generator: np.random.Generator) -> Mix:
            after = self.after[generator.integers(len(self.after))]
            partner = send(generator.permutation(len(labels)), labels.device)
            weight = class_counts.new_full((len(labels),), 1 - generator.beta(self.alpha, self.alpha))
            return Mix(after, partner, weight, weight)

        return draw
