"""Choosing a number of a head by balanced accuracy on images that are not the test set, at the cost of one matrix product.

The heads that search only rescale or shift the columns of one logit matrix, so a block of logits is computed once and judged under all
values while it is in the processor's cache.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.classifier import Classifier
from pipeline.features import Features

GRID = np.linspace(0, 2, 21).round(1)  # of Kang et al.'s code for τ
BLOCK = 512  # rows judged at a time


def judges(train: Features, val: Features | None, asked: np.ndarray | None = None) -> tuple[Features, str]:
    """The samples that choose, and the name of their split: validation, and training for the classes that have none there.

    asked : (c,) bool, the classes that matter; all if None
    """
    if val is None:
        return train, "train"
    lacking = val.class_counts == 0
    rows = (lacking if asked is None else lacking & asked)[train.labels]
    if not rows.any():
        return val, "val"
    features = np.concatenate([val.features, train.features[rows]])
    return replace(val, features=features, labels=np.concatenate([val.labels, train.labels[rows]])), "val + train"


def best(judge: Features, classifier: Classifier, combine: np.ufunc, columns: np.ndarray) -> tuple[int, np.ndarray]:
    """Which of t adjustments of the logits gives the highest mean of per-class accuracies; of equals the first.

    Parameters
    ----------
    combine : `np.multiply` or `np.add`, what is done to the logits (n, c) with a row of `columns`
    columns : (t, c), a factor or a summand for each class

    Returns
    -------
    its index, and the balanced accuracies (t,), fractions
    """
    tried = tries(judge, classifier, combine, columns)
    accuracies = tried[:, judge.class_counts > 0].mean(1)
    return peak(accuracies), accuracies


def peak(accuracies: np.ndarray) -> int:
    """The place of the highest of accuracies (t,), fractions; of equals the first, which may differ in the last bit of their sums."""
    return int(accuracies.round(9).argmax())


def tries(judge: Features, classifier: Classifier, combine: np.ufunc, columns: np.ndarray) -> np.ndarray:
    """The accuracy of each class under each adjustment, as in `best`: (t, c), fractions; NaN for a class without a sample."""
    hits = np.zeros((len(columns), judge.classes))
    columns = columns.astype(np.float32)
    for start in range(0, len(judge.labels), BLOCK):
        logits, labels = classifier.scores(judge.features[start : start + BLOCK]), judge.labels[start : start + BLOCK]
        changed = np.empty_like(logits)
        for row, column in zip(hits, columns, strict=True):
            right = combine(logits, column, out=changed).argmax(1) == labels
            row += np.bincount(labels[right], minlength=judge.classes)
    return np.divide(hits, judge.class_counts, out=np.full(hits.shape, np.nan), where=judge.class_counts > 0)


def record(name: str, value: float, selected_on: str, accuracies: np.ndarray | None = None) -> dict[str, Any]:
    """What a classifier keeps of a choice: the value, the split that chose it, and the balanced accuracy (percent) of each value tried."""
    kept = {"selected_on": selected_on, "chosen": {name: round(float(value), 4)}}
    if accuracies is not None:
        kept["tried"] = {name: GRID.tolist(), "accuracy": (100 * accuracies).round(2).tolist()}
    return kept
