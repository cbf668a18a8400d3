"""Nearest class mean (Kang et al. 2020, section 4.2; SimpleShot, Wang et al. 2019), searched by faiss.

The paper names cosine similarity or the Euclidean distance to L2-normalised means; its code by default subtracts the training mean, divides
by the norm, averages each class and does not normalise the mean again. `centred_l2` with `euclidean` is that code, and the default here.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.classifier import Classifier, Transform
from pipeline.features import Features
from pipeline.head import main
from pipeline.params import Params
from pipeline.sampling import by_class


class Head(Params):
    """transform : `raw`, `l2` or `centred_l2` (mean over training images, not over classes); distance : `euclidean` or `cosine`."""

    transform: Literal["raw", "l2", "centred_l2"] = "centred_l2"
    distance: Literal["euclidean", "cosine"] = "euclidean"

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Average the transformed features of each class."""
        centre = train.features.mean(0, dtype=np.float64).astype(np.float32) if self.transform == "centred_l2" else None
        transform = Transform(centre, l2=self.transform != "raw")
        means = np.zeros((train.classes, train.dim), np.float32)
        for k, members in enumerate(by_class(train.labels, train.classes)):
            if len(members):
                means[k] = transform(train.features[members]).mean(0, dtype=np.float64)
        return Classifier(means=means, distance=self.distance, transform=transform, absent=train.absent)


if __name__ == "__main__":
    main(Head)
