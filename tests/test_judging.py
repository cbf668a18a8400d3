"""All figures of a result against scikit-learn, scipy and loops: classes in no order, of unequal numbers of test images."""

import numpy as np
import pytest
from scipy.stats import gmean, hmean
from sklearn.metrics import accuracy_score, f1_score, top_k_accuracy_score

from pipeline import judging, metrics
from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.outcomes import Outcome
from tests.test_metrics import ece_by_loop


def test_every_figure_of_a_result():
    rng = np.random.default_rng(0)
    counts, tested = np.array([10, 60, 51, 4, 7, 100, 30]), [9, 5, 14, 8, 6, 11, 7]
    labels = rng.permutation(np.repeat(np.arange(7), tested))
    scores = rng.normal(size=(60, 7)) + 1.5 * np.eye(7)[labels]
    predicted = scores.argmax(1)
    confidence = 1 / np.exp(scores - scores.max(1, keepdims=True)).sum(1)
    rank = (scores > scores[np.arange(60), labels][:, None]).sum(1)
    test = Features(np.zeros((60, 2), np.float32), labels, 7)
    plain = Classifier.linear(np.zeros((7, 2)), np.zeros(7))
    figures = judging.judge(Outcome(predicted, confidence, rank), [plain], test, counts, metrics.groups(counts, 50, 10), [20]).figures

    def close(value):
        return pytest.approx(value, abs=0.006)  # two decimals

    recall = np.array([100 * (predicted[labels == k] == k).mean() for k in range(7)])
    floored = np.maximum(recall, 0.1)
    assert figures["micro"] == close(100 * accuracy_score(labels, predicted))
    each = [top_k_accuracy_score(labels[labels == k], scores[labels == k], k=5, labels=np.arange(7)) for k in range(7)]
    assert figures["top5"] == close(100 * np.mean(each))
    assert [figures[name] for name in ("worst", "harmonic", "geometric")] == close([recall.min(), hmean(floored), gmean(floored)])
    assert figures["macro_f1"] == close(100 * f1_score(labels, predicted, average="macro"))
    for name, classes in {"all": range(7), "many": [1, 2, 5], "medium": [0, 6], "few": [3, 4]}.items():
        rows = np.isin(labels, classes)
        assert figures[name] == close(recall[list(classes)].mean())
        assert figures["ece"][name] == close(ece_by_loop(confidence[rows], predicted[rows] == labels[rows]))
    for name, largest_first in (("forward", np.argsort(-counts)), ("backward", np.argsort(counts))):
        shares = np.empty(7)
        shares[largest_first] = 20.0 ** (-np.arange(7) / 6)
        assert figures[name]["20"] == close(np.average(recall, weights=shares))


def test_groups_at_their_borders():
    """Many-shot is more than 100 images, few-shot fewer than 20 (Liu et al. 2019)."""
    found = metrics.groups(np.array([19, 20, 100, 101]), 100, 20)
    assert {name: np.flatnonzero(mask).tolist() for name, mask in found.items()} == {"many": [3], "medium": [1, 2], "few": [0]}
