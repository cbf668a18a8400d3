"""τ-normalised classifier (Kang et al. 2020, section 4, Eq. 3): stage one's weights with norms raised to 1 - τ.

w_k / ||w_k||^τ without the bias, as the paper and its code have it: τ = 0 keeps the weights, τ = 1 gives every class the same norm.
The weights of a cosine classifier (LDAM) have one norm already: there every τ gives stage one's own predictions.

τ is given, or chosen in one of the paper's three ways (its Table 9): the best of 0, 0.1, … 2 on validation or on training images, by the
mean of per-class accuracies, the smaller of equals (on training images that a network knows by heart many are equal); or learned, the τ
that minimises class-balanced cross-entropy on training features. The paper's code for that is not published. Instead of drawing balanced
batches, each class weighs the same, so that nothing is left to chance; Brent's method finds τ between 0 and 3, of several minima one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.head import main
from pipeline.params import Params
from pipeline.sampling import class_balanced
from pipeline.search import GRID, best, judges, record

LOGITS = 2**28  # for `learn`, 1 GiB: a training set that has more of them is represented by class-balanced draws
BLOCK = 4096  # rows


class Head(Params):
    """tau : 0.7 is the paper's choice for ImageNet-LT, where `select` is `given`.

    select : `given`; `val` (where there are no validation images of a class, its training images; the result says so); `train`; `learn`
    """

    tau: float = Field(0.7, ge=0)
    select: Literal["given", "val", "train", "learn"] = "given"

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Rescale stage one's weights, class by class."""
        stage_one = train.stage_one("tau")
        norms = np.maximum(np.linalg.norm(stage_one.weight.astype(float), axis=1), 1e-12)  # (c,)
        plain = replace(stage_one, layers=((stage_one.weight, np.zeros(train.classes, np.float32)),), absent=train.absent)
        tau, kept = self.tau, {}
        if self.select in ("val", "train"):
            judge, split = judges(train, val if self.select == "val" else None)
            index, accuracies = best(judge, plain, np.multiply, norms ** -GRID[:, None])
            tau, kept = float(GRID[index]), record("tau", GRID[index], split, accuracies)
        elif self.select == "learn":
            tau = learned(train, plain, norms, seed)
            kept = record("tau", tau, "train")
        weight = stage_one.weight / norms[:, None] ** tau
        return Classifier.linear(weight, plain.bias, transform=stage_one.transform, absent=train.absent, record=kept)


def learned(train: Features, classifier: Classifier, norms: np.ndarray, seed: int) -> float:
    """The τ in [0, 3] that minimises the mean over classes of the mean cross-entropy of their samples."""
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    rows, most = np.arange(len(train.labels)), max(LOGITS // train.classes, 1)
    if len(rows) > most:
        rows = class_balanced(train.labels, 0, most, seed)
    labels = train.labels[rows]
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    logits = np.concatenate([classifier.scores(train.features[block]) for block in blocks])  # (m, c)
    own = logits[np.arange(len(rows)), labels]
    share = 1 / np.bincount(labels, minlength=train.classes)[labels]  # (m,), sums to 1 in every class

    def loss(tau: float) -> float:
        scales = (norms**-tau).astype(np.float32)
        parts = [logsumexp(logits[start : start + BLOCK] * scales, axis=1) for start in range(0, len(logits), BLOCK)]
        return float(share @ (np.concatenate(parts) - own * scales[labels])) / share.sum()

    return float(minimize_scalar(loss, bounds=(0, 3), method="bounded").x)


if __name__ == "__main__":
    main(Head)
