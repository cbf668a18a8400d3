"""Linear discriminant analysis: class means and one covariance that all classes share, so that a class of one image has a shape too.

With Σ = shrunk covariance of features about their class means, w_k = Σ⁻¹ μ_k and b_k = -μ_k Σ⁻¹ μ_k / 2: the Bayes classifier of equally
frequent Gaussian classes. The covariance is shrunk towards a multiple of the identity by scikit-learn's Ledoit-Wolf (2004) or OAS
(Chen et al. 2010) intensity. Unlike scikit-learn's own LDA, which shrinks each class's covariance and averages them, the samples of all
classes are pooled first: with five samples a class that is the estimate that can be trusted.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.head import main
from pipeline.params import Params

SAMPLES = 2**17  # the intensity is estimated from so many at most; scikit-learn needs two more copies of them
BLOCK = 8192


class Head(Params):
    """shrinkage : `ledoit_wolf` or `oas`."""

    shrinkage: Literal["ledoit_wolf", "oas"] = "ledoit_wolf"

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Solve for the weights (c, d) in float64."""
        from sklearn.covariance import ledoit_wolf_shrinkage, oas, shrunk_covariance

        means = train.class_means()
        rows = np.arange(len(train.labels))
        if len(rows) > SAMPLES:
            rows = np.sort(np.random.default_rng(seed).permutation(rows)[:SAMPLES])
        centred = train.features[rows] - means[train.labels[rows]]
        if self.shrinkage == "oas":
            intensity = oas(centred, assume_centered=True)[1]
        else:
            intensity = ledoit_wolf_shrinkage(centred, assume_centered=True)
        del centred
        precise = means.astype(float)
        covariance = shrunk_covariance(within(train, means), float(intensity))
        weight = np.linalg.solve(covariance + 1e-12 * np.eye(train.dim) * max(np.trace(covariance), 1e-12), precise.T).T
        bias = -0.5 * (weight * precise).sum(1)
        record = {"shrinkage": round(float(intensity), 6)}
        return Classifier.linear(weight, bias, absent=train.absent, record=record)


def within(train: Features, means: np.ndarray) -> np.ndarray:
    """Covariance (d, d) of features about the means (c, d) of their classes: the product of each block of rows in their precision, the sum
    of these in float64.
    """
    total = np.zeros((train.dim, train.dim))
    for start in range(0, len(train.labels), BLOCK):
        centred = train.features[start : start + BLOCK] - means[train.labels[start : start + BLOCK]]
        total += centred.T @ centred
    return total / len(train.labels)


if __name__ == "__main__":
    main(Head)
