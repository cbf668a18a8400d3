"""LWS, learnable weight scaling (Kang et al. 2020, section 4, Eq. 4): one learned factor for each class of stage one's classifier.

Logits are f_k (w_k x + b_k): the bias is scaled too, as in the reference code. The factors start at 1 and may take any sign; class-balanced
batches, SGD with momentum 0.9 and a cosine, weight decay on the factors. The paper does not say how long; its code takes 5 epochs.
"""

from __future__ import annotations

from pydantic import Field

from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.head import main
from pipeline.retraining import Retraining


class Head(Retraining):
    """Parameters of `Retraining`; what learns, and decays, are the factors."""

    epochs: int = Field(5, ge=1)

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Learn the factors (c,) and fold them into stage one's weight and bias."""
        from pipeline.sgd import dtype_of, to_device
        from pipeline.students import Scales

        stage_one = train.stage_one("lws")
        dtype = dtype_of(train.features)
        student = Scales(to_device(stage_one.weight).to(dtype), to_device(stage_one.bias).to(dtype))
        self.learn(student, train, seed, "lws", stage_one.transform)
        return Classifier.linear(*student.layer(), transform=stage_one.transform, absent=train.absent)


if __name__ == "__main__":
    main(Head)
