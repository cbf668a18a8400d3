"""Post-hoc logit adjustment: stage one's classifier, corrected for the class sizes that it has learned; nothing is trained.

`additive` (Menon et al. 2021, Eq. 9) takes z_k - τ log p_k, p_k the class's share of the training images; τ = 1 is Bayes' rule for equally
frequent classes. `multiplicative` (Kim and Kim 2020; Hasegawa and Sato 2024) gives each class's weight the norm (n_max / n_k)^τ and drops
the bias, and with them the scale of stage one's logits; Hasegawa and Sato's code multiplies logits of weights that have one norm already.
τ is given, or the best of 0, 0.1, … 2 on validation or training images by the mean of per-class accuracies, the smaller of equals.
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
from pipeline.search import GRID, best, judges, record


class Head(Params):
    """tau : strength, where `select` is `given`.

    form : `additive` or `multiplicative`
    select : `given`; `val` (where there are no validation images of a class, its training images; the result says so); `train`
    """

    tau: float = Field(1.0, ge=0)
    form: Literal["additive", "multiplicative"] = "additive"
    select: Literal["given", "val", "train"] = "given"

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Shift stage one's biases, or rescale its weights, class by class."""
        stage_one = replace(train.stage_one("logit_adjust"), absent=train.absent)
        counts = np.maximum(train.class_counts, 1).astype(float)  # an absent class never wins, whatever its logit
        additive = self.form == "additive"
        if additive:
            strength = -np.log(counts / counts.sum())
        else:
            unit = stage_one.weight / np.maximum(np.linalg.norm(stage_one.weight, axis=1, keepdims=True), 1e-12)
            stage_one = replace(stage_one, layers=((unit, np.zeros_like(stage_one.bias)),))
            strength = np.log(counts.max() / counts)

        def columns(tau: np.ndarray) -> np.ndarray:  # (t, c) of (t,)
            return tau[:, None] * strength if additive else np.exp(tau[:, None] * strength)

        tau, kept = self.tau, {}
        if self.select != "given":
            judge, split = judges(train, val if self.select == "val" else None)
            index, accuracies = best(judge, stage_one, np.add if additive else np.multiply, columns(GRID))
            tau, kept = float(GRID[index]), record("tau", GRID[index], split, accuracies)
        (column,) = columns(np.array([tau]))
        if additive:
            weight, bias = stage_one.weight, stage_one.bias + column
        else:
            weight, bias = stage_one.weight * column[:, None], stage_one.bias
        return Classifier.linear(weight, bias, transform=stage_one.transform, absent=train.absent, record=kept)


if __name__ == "__main__":
    main(Head)
