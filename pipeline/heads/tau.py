"""τ-normalised classifier (Kang et al. 2020, section 4.2, Eq. 4): stage one's weights with norms raised to 1 - τ.

w_k / ||w_k||^τ without the bias, as the paper and its code have it: τ = 0 keeps the weights, τ = 1 gives every class the same norm.
The weights of a cosine classifier (LDAM) have one norm already: there every τ gives stage one's own predictions.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.head import main
from pipeline.params import Params


class Head(Params):
    """tau : 0.7 is the paper's choice for ImageNet-LT."""

    tau: float = Field(0.7, ge=0)

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Rescale stage one's weights, class by class."""
        stage_one = train.stage_one("tau")
        norm = np.maximum(np.linalg.norm(stage_one.weight, axis=1, keepdims=True), 1e-12)  # (c, 1)
        weight, bias = stage_one.weight / norm**self.tau, np.zeros(train.classes)
        return Classifier.linear(weight, bias, transform=stage_one.transform, absent=train.absent)


if __name__ == "__main__":
    main(Head)
