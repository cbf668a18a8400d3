"""cRT, classifier re-training (Kang et al. 2020, section 4.2): a new linear classifier from class-balanced batches.

Weights start at random (as `torch.nn.Linear`), the class-aware sampler of the reference code draws, SGD with momentum 0.9 and a cosine
minimises cross-entropy. An epoch is as many images as the training set has. On cached features the backbone is truly frozen; the
reference code leaves BatchNorm in training mode, so its statistics drift.
"""

from __future__ import annotations

from pydantic import Field

from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.head import main
from pipeline.params import Params


class Head(Params):
    """epochs, batch (images), lr (at the start of the cosine), weight_decay (on weight and bias)."""

    epochs: int = Field(10, ge=1)
    batch: int = Field(512, ge=1)
    lr: float = Field(0.2, gt=0)
    weight_decay: float = Field(5e-4, ge=0)

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Train weight (c, d) and bias (c,) from scratch."""
        from torch.nn.functional import cross_entropy, linear

        from pipeline.sgd import class_balanced_batches, minimise, new_linear, to_device

        batches = class_balanced_batches(train.labels, self.epochs, self.batch, seed)
        features, labels = to_device(train.features), to_device(train.labels)
        weight, bias = new_linear(train.classes, train.dim, seed)
        losses = (cross_entropy(linear(features[rows], weight, bias), labels[rows]) for rows in batches)
        minimise([weight, bias], losses, len(batches), self.lr, self.weight_decay, "crt")
        return Classifier.linear(weight.detach().cpu(), bias.detach().cpu(), absent=train.absent)


if __name__ == "__main__":
    main(Head)
