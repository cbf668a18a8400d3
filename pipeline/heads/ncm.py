"""Nearest class mean (Kang et al. 2020, section 4; SimpleShot, Wang et al. 2019), searched by faiss.

The paper names cosine similarity or the Euclidean distance to L2-normalised means; its code by default subtracts the training mean, divides
by the norm, averages each class and does not normalise the mean again. `centred_l2` with `euclidean` is that code, and the default here;
the text is `raw` with `cosine`, or with `euclidean` and `renormalise`, which predict the same. `cosine` is the cosine proper, of whatever
length the means are (the code there forgets to divide by it).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.classifier import Classifier, Transform
from pipeline.features import Features
from pipeline.head import main
from pipeline.params import Params


class Head(Params):
    """transform : `raw`, `l2` or `centred_l2` (mean over training images, not over classes); distance : `euclidean` or `cosine`.

    renormalise : whether means are brought to unit length
    """

    transform: Literal["raw", "l2", "centred_l2"] = "centred_l2"
    distance: Literal["euclidean", "cosine"] = "euclidean"
    renormalise: bool = False

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Average the transformed features of each class."""
        centre = None
        if self.transform == "centred_l2":
            centre = (train.class_counts @ train.class_means().astype(float) / len(train.labels)).astype(np.float32)
        transform = Transform(centre, l2=self.transform != "raw")
        means = train.class_means(None if self.transform == "raw" else transform).astype(np.float32)
        if self.renormalise:
            means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return Classifier(means=means, distance=self.distance, transform=transform, absent=train.absent)


if __name__ == "__main__":
    main(Head)
