"""LWS, learnable weight scaling (Kang et al. 2020, section 4.2, Eq. 5): one learned factor for each class of stage one's classifier.

Logits are f_k (w_k x + b_k): the bias is scaled too, as in the reference code. The factors start at 1 and may take any sign; class-balanced
batches, SGD with momentum 0.9 and a cosine, weight decay on the factors.
"""

from __future__ import annotations

from pydantic import Field

from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.head import main
from pipeline.params import Params


class Head(Params):
    """epochs (the reference code takes 5), batch (images), lr (at the start of the cosine), weight_decay (on the factors)."""

    epochs: int = Field(5, ge=1)
    batch: int = Field(512, ge=1)
    lr: float = Field(0.2, gt=0)
    weight_decay: float = Field(5e-4, ge=0)

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Learn the factors (c,) and fold them into stage one's weight and bias."""
        import torch
        from torch.nn.functional import cross_entropy, linear

        from pipeline.sgd import class_balanced_batches, minimise, to_device

        batches = class_balanced_batches(train.labels, self.epochs, self.batch, seed)
        stage_one = train.stage_one("lws")
        features, labels = to_device(train.seen_by(stage_one).features), to_device(train.labels)
        weight, bias = to_device(stage_one.weight), to_device(stage_one.bias)
        factors = torch.ones(train.classes, device=weight.device, requires_grad=True)
        losses = (cross_entropy(factors * linear(features[rows], weight, bias), labels[rows]) for rows in batches)
        minimise([factors], losses, len(batches), self.lr, self.weight_decay, "lws")
        learned = factors.detach().cpu().numpy()
        weight, bias = stage_one.weight * learned[:, None], stage_one.bias * learned
        return Classifier.linear(weight, bias, transform=stage_one.transform, absent=train.absent)


if __name__ == "__main__":
    main(Head)
