"""A perceptron of one to three layers on the frozen features (Kang et al. 2020, Tables 10 and 11), trained as cRT.

The paper: hidden layers of 2048 or 512 units with ReLU, batch 512, class-balanced, ten epochs with a cosine; its rate is not given, and
cRT's is taken. One layer is cRT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.head import main
from pipeline.retraining import Retraining

if TYPE_CHECKING:
    import torch


class Head(Retraining):
    """Parameters of `Retraining`, and layers : 1 to 3; hidden : units of each hidden layer."""

    layers: int = Field(2, ge=1, le=3)
    hidden: int = Field(512, ge=1)

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Train all layers from scratch."""
        from pipeline.sgd import dtype_of

        student = Perceptron([train.dim, *[self.hidden] * (self.layers - 1), train.classes], seed, dtype_of(train.features))
        self.learn(student, train, seed, "mlp")
        arrays = [tensor.detach().float().cpu().numpy() for tensor in student.learned]
        return Classifier(layers=tuple(zip(arrays[::2], arrays[1::2], strict=True)), absent=train.absent)


class Perceptron:
    """Linear layers between the given widths, ReLU between them; each starts as `torch.nn.Linear`."""

    def __init__(self, widths: list[int], seed: int, dtype: torch.dtype) -> None:
        from pipeline.sgd import new_linear

        pairs = zip(widths[1:], widths[:-1], strict=True)
        self.learned = [tensor for depth, pair in enumerate(pairs) for tensor in new_linear(*pair, seed + depth, dtype)]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (b, c) of features (b, d)."""
        from torch.nn.functional import linear

        for depth in range(0, len(self.learned), 2):
            x = linear(x.relu() if depth else x, *self.learned[depth : depth + 2])
        return x


if __name__ == "__main__":
    main(Head)
