"""cRT, classifier re-training (Kang et al. 2020, section 4): a new linear classifier from class-balanced batches.

Weights start at random (as `torch.nn.Linear`), the class-aware sampler of the reference code draws, SGD with momentum 0.9 and a cosine
minimises cross-entropy. On cached features the backbone is truly frozen; the reference code leaves BatchNorm in training mode, so its
statistics drift (`extract.recalibrate` brings that back).

The same training with other choices is another head of the literature:
- `sampler: instance` with `loss: balanced_softmax` or `logit_adjust`: decoupled Balanced Softmax (Ren et al. 2020);
- `start: stage_one, sampler: instance, loss: class_balanced, lr: 0.01, batch: 64, weight_decay: 0.1, max_norm: 0.1`: weight balancing
  (Alshammari et al. 2022). The norm of each class's weight stays below a radius, by projection behind every step as in the paper (the code:
  every epoch). The radius lies a share `max_norm` of the way from the smallest to the largest norm in stage one's classifier, the code's
  rule. Its loss is cross-entropy here, the mean over weighted images; the code takes binary cross-entropy of the softmax's probabilities,
  the mean over images and classes of weights that sum to the number of classes: on CIFAR-100-LT at ratio 100 its gradients are some 500
  times smaller, beside the same weight decay;
- `start: stage_one, sampler: instance, label_smoothing: 0.98, epochs: 20, lr: 5.0e-4, batch: 64, weight_decay: 0`: LOS (Sun et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from pipeline.classifier import Classifier, Transform
from pipeline.features import Features
from pipeline.head import main
from pipeline.retraining import Retraining

if TYPE_CHECKING:
    import torch

    from pipeline.students import Layer


class Head(Retraining):
    """Parameters of `Retraining`, and

    start : weights at first: `random`; `stage_one`; `class_means`, the nearest-mean classifier w_k = μ_k, b_k = -||μ_k||² / 2
    max_norm : where between the smallest (0) and the largest (1) of stage one's norms each class's weight is bounded; null: nowhere
    """

    start: Literal["random", "stage_one", "class_means"] = "random"
    max_norm: float | None = Field(None, ge=0)

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Train weight (c, d) and bias (c,)."""
        transform = train.stage_one("crt").transform if self.start == "stage_one" else Transform()
        student = self.student(train, seed)
        self.learn(student, train, seed, "crt", transform, after_step=self.projection(student.learned[0], train))
        return Classifier.linear(*student.layer(), transform=transform, absent=train.absent)

    def student(self, train: Features, seed: int) -> Layer:
        """The classifier at its start."""
        from pipeline.sgd import dtype_of, new_linear, to_device
        from pipeline.students import Layer

        dtype = dtype_of(train.features)
        if self.start == "random":
            return Layer(*new_linear(train.classes, train.dim, seed, dtype))
        if self.start == "stage_one":
            weight, bias = train.stage_one("crt").weight, train.stage_one("crt").bias
        else:
            weight = train.class_means()
            bias = -0.5 * (weight.astype(float) ** 2).sum(1)
        return Layer(to_device(weight).to(dtype), to_device(bias).to(dtype))

    def projection(self, weight: torch.Tensor, train: Features) -> Callable[[], object] | None:
        """What brings the rows of `weight` (c, d) back into the ball, in place; None where there is no bound."""
        if self.max_norm is None:
            return None
        norms = np.linalg.norm(train.stage_one("crt").weight, axis=1)
        radius = float(norms.min() + self.max_norm * (norms.max() - norms.min()))
        return lambda: weight.mul_((radius / weight.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1))


if __name__ == "__main__":
    main(Head)
