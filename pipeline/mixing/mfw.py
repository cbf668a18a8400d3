"""MFW, major feature weakening (Ye et al. 2021, "Procrustean Training for Imbalanced Deep Learning", section 3.2, Algorithm 1).

The feature of every sample behind a group is moved towards that of another sample of the batch and keeps its own label:
z1 = (1 - λ1) g(x1) + λ1 g(x2) (Eq. 4), λ1 = s(N_y1) Beta(α, α), s(N) = 0.5 sigmoid((N - μ) / (β γ)) (Eq. 12). Major classes are moved up
to half the way, minor classes hardly. λ is drawn for each sample; nothing is mixed at evaluation.

Where the paper is silent or can be read in two ways:
- μ and γ are "the geometric mean and standard deviation" of the class counts. `scale: geometric` takes γ = exp(std(log N)): only this
  reading gives the paper's s(N_1) ≈ 0.5 and s(N_10) ≈ 0 on CIFAR-10-LT, where with β = 2 it is nearly a step at μ. `arithmetic` takes
  γ = std(N), there a gentle slope from 0.41 to 0.23. Both with the population's standard deviation. `hard` is the limit of a small β: 0.5
  for classes above μ, 0 for those below, the weights of section 4's experiment, which has two class sizes.
- A group is the stem or a whole stage ("the second group" = stage 1): the five positions of the paper's Table 5 are then the images, the
  stem and the three stages of a ResNet-32.
- α = 2 is the value of section 4, the only one given, for two class sizes at ratio 100; the others were tuned. Where s is nearly a step, α
  decides how much the absence of mixing, as in every test image, speaks for the classes below μ: the less likely a λ near 0 is, the more.
  A long tail, whose halves differ less than section 4's, did better with less over 60 epochs (README, Notes on reproduction).
- β: 2 for long-tailed, 0.01 for step data (section 5.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from pipeline.files import InputError
from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from pipeline.network import Mix


class Mixing(Params):
    """after : number of groups before the mixing (2 = behind stage 1); alpha, beta, scale : see above."""

    after: int = Field(2, ge=0)
    alpha: float = Field(2.0, gt=0)
    beta: float = Field(2.0, gt=0)
    scale: Literal["geometric", "arithmetic", "hard"] = "geometric"

    def weakening(self, class_counts: torch.Tensor) -> torch.Tensor:
        """s(N) of Eq. 12 for each class, (c,) in [0, 0.5].

        Raises
        ------
        InputError
            For `hard` on classes of one size, of which none is major.
        """
        counts = class_counts.double()
        mean = counts.log().mean().exp()
        if self.scale == "hard":
            if counts.min() == counts.max():
                raise InputError("params.yaml: mixing.mfw.scale: hard: all classes have the same number of images, so none is major")
            return 0.5 * (counts > mean).float()
        if self.scale == "geometric":
            scale = counts.log().std(correction=0).exp()
        else:
            scale = counts.std(correction=0)
            scale = scale if scale > 0 else 1.0  # classes of one size: s = 0.25 everywhere
        return (0.5 * ((counts - mean) / (self.beta * scale)).sigmoid()).float()

    def build(self, class_counts: torch.Tensor) -> Callable[[torch.Tensor, np.random.Generator], Mix]:
        """A function of labels (b,) and a generator that draws partners and weights; labels stay as they are."""
        from pipeline.device import send
        from pipeline.network import Mix

        weakening = self.weakening(class_counts)

        def draw(labels: torch.Tensor, generator: np.random.Generator) -> Mix:
            partner = send(generator.permutation(len(labels)), labels.device)
            share = send(generator.beta(self.alpha, self.alpha, len(labels)).astype(np.float32), labels.device)
            return Mix(self.after, partner, weakening[labels] * share, None)

        return draw
