"""Cosine classifier (Kang et al. 2020, Table 12, after Gidaris and Komodakis 2018): logits s cos(x, w_k), trained as cRT.

The scale s starts at 10 as in Gidaris and Komodakis and learns. `tap: pre_relu` is the paper's "noRelu" row: it takes features before the
backbone's last ReLU, where directions are not confined to one orthant (`extract.pre_relu: true` stores them). `start: class_means`
with `scale: 25, learn_scale: false, sampler: instance, loss: logit_adjust, lr: 0.01, batch: 128` is the recipe of LIFT (Shi et al. 2024)
for frozen foundation features; it starts from directions of means, here it is means of directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.classifier import Classifier, Tap, Transform
from pipeline.features import Features
from pipeline.head import main
from pipeline.retraining import Retraining

if TYPE_CHECKING:
    import torch


class Head(Retraining):
    """Parameters of `Retraining`, and

    scale, learn_scale : s at first, and whether it learns
    start : `random`, or `class_means`: the mean direction of each class
    tap : which features, `features` or `pre_relu`; the latter have no views
    """

    scale: float = Field(10.0, gt=0)
    learn_scale: bool = True
    start: Literal["random", "class_means"] = "random"
    tap: Tap = "features"

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Train the directions (c, d) and the scale."""
        from pipeline.sgd import dtype_of, new_linear, to_device

        train = train.tapped(self.tap)
        unit = Transform(l2=True)
        dtype = dtype_of(train.features)
        if self.start == "random":
            weight, _ = new_linear(train.classes, train.dim, seed, dtype)
        else:
            weight = to_device(train.class_means(unit)).to(dtype).requires_grad_()
        student = Cosine(weight, self.scale, self.learn_scale)
        self.learn(student, train, seed, "cosine", unit)
        weight = student.scaled_directions().detach().cpu().numpy()
        return Classifier.linear(weight, [0.0] * train.classes, transform=unit, absent=train.absent, tap=self.tap)


class Cosine:
    """s w_k x / ||w_k|| for features x (b, d) of unit length; weight (c, d) and, if wanted, the scale () learn."""

    def __init__(self, weight: torch.Tensor, scale: float, learn_scale: bool) -> None:
        self.weight, self.scale = weight, weight.new_tensor(scale).requires_grad_(learn_scale)
        self.learned = [self.weight, self.scale] if learn_scale else [self.weight]

    def scaled_directions(self) -> torch.Tensor:
        """s w_k / ||w_k||, (c, d)."""
        from torch.nn.functional import normalize

        return self.scale * normalize(self.weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (b, c)."""
        return x @ self.scaled_directions().T


if __name__ == "__main__":
    main(Head)
