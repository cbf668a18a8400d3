"""Figures against scikit-learn, scipy and hand loops."""

import numpy as np
import pytest
from scipy.stats import gmean, hmean
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score, top_k_accuracy_score

from pipeline import metrics


def predictions(seed=0, classes=6, n=500):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return labels, np.where(rng.random(n) < 0.6, labels, rng.integers(0, classes, n))


def test_per_class_accuracy_is_recall():
    labels, predicted = predictions()
    expected = 100 * recall_score(labels, predicted, average=None)
    np.testing.assert_allclose(metrics.per_class_accuracy(labels, predicted, 6), expected)


def test_a_class_without_a_test_image_has_no_accuracy():
    accuracies = metrics.per_class_accuracy(np.array([0, 0, 2]), np.array([0, 1, 2]), 4)
    np.testing.assert_array_equal(accuracies, [50, np.nan, 100, np.nan])


def test_the_mean_over_classes_is_balanced_and_micro_plain_accuracy():
    labels, predicted = predictions()
    kept = labels < 5 - (np.arange(500) % 3)  # no longer balanced
    labels, predicted = labels[kept], predicted[kept].clip(max=4)
    accuracies = metrics.per_class_accuracy(labels, predicted, 5)
    assert metrics.mean(accuracies) == round(100 * balanced_accuracy_score(labels, predicted), 2)
    assert metrics.micro(labels, predicted) == round(100 * accuracy_score(labels, predicted), 2)


def test_an_empty_group_is_none_and_not_zero():
    assert metrics.mean(np.array([])) is None
    assert metrics.mean(np.array([np.nan])) is None
    assert metrics.mean(np.array([np.nan, 40, 20])) == 30


def test_every_class_is_in_exactly_one_group():
    counts = np.arange(200)
    assert (sum(mask.astype(int) for mask in metrics.groups(counts, 100, 20).values()) == 1).all()


def test_unequal_classes_are_told_by_their_worst_and_by_scipy_s_means():
    accuracies = np.array([80, np.nan, 3.5, 41])
    assert metrics.spread(accuracies) == {
        "worst": 3.5,
        "harmonic": round(hmean([80, 3.5, 41]), 2),
        "geometric": round(gmean([80, 3.5, 41]), 2),
    }


def test_a_class_at_zero_counts_as_a_tenth_of_a_percent_in_these_means():
    found = metrics.spread(np.array([0.0, 50]))
    assert found == {"worst": 0.0, "harmonic": round(2 / (1 / 0.1 + 1 / 50), 2), "geometric": round(np.sqrt(0.1 * 50), 2)}


def test_macro_f1_is_scikit_learn_s_over_the_tested_classes():
    labels, predicted = predictions()
    kept = labels != 2  # without test images, but predicted
    labels, predicted = labels[kept], predicted[kept]
    expected = 100 * f1_score(labels, predicted, labels=[0, 1, 3, 4, 5], average="macro")
    assert metrics.macro_f1(labels, predicted, 6) == round(expected, 2)


def test_top_k_is_scikit_learn_s_on_a_balanced_test_set():
    rng = np.random.default_rng(0)
    labels, scores = np.repeat(np.arange(8), 30), rng.normal(size=(240, 8))
    rank = (scores > scores[np.arange(240), labels][:, None]).sum(1)
    for k in (1, 3, 5):
        assert metrics.top_k(labels, rank, 8, k) == round(100 * top_k_accuracy_score(labels, scores, k=k), 2)
    assert metrics.top_k(labels, rank, 8, 8) is None


def ece_by_loop(confidence, right, bins=15):
    """Guo et al. 2017, Eq. 3, a bin at a time."""
    total = 0.0
    for m in range(bins):
        inside = [i for i in range(len(right)) if m / bins < confidence[i] <= (m + 1) / bins]
        if inside:
            total += abs(sum(right[i] for i in inside) - sum(confidence[i] for i in inside)) / len(right)
    return 100 * total


def test_ece_is_the_equation_s():
    rng = np.random.default_rng(0)
    confidence = np.append(rng.random(500), [1.0, 0.5, 1e-9])
    right = rng.random(503) < confidence**2
    assert metrics.ece(confidence, right) == pytest.approx(ece_by_loop(confidence, right), abs=0.005)
    assert metrics.ece(confidence[:0], right[:0]) is None


def test_who_is_right_as_often_as_confident_has_no_calibration_error():
    confidence = np.repeat([0.25, 0.75], 40)
    right = np.concatenate([np.arange(40) < 10, np.arange(40) < 30])
    assert metrics.ece(confidence, right) == 0
    found = metrics.reliability(confidence, right, bins=2)
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.25, 0.75], [0.25, 0.75]])


@pytest.mark.parametrize("backward", [False, True])
def test_a_long_tailed_test_set_is_weighted_accuracy(backward):
    """As scikit-learn has it, with each image weighing what its class would have of the long tail."""
    labels, predicted = predictions()
    counts = np.array([5, 300, 60, 120, 30, 10])
    order = np.argsort(counts if backward else -counts)
    size = np.empty(6)
    size[order] = 20.0 ** (-np.arange(6) / 5)
    weights = (size / np.bincount(labels))[labels]
    found = metrics.shifted(metrics.per_class_accuracy(labels, predicted, 6), counts, 20, backward)
    assert found == round(100 * accuracy_score(labels, predicted, sample_weight=weights), 2)


def test_a_shifted_test_set_treats_equal_classes_alike():
    """Each has the mean of what the orders among them would give it."""
    counts, accuracies = np.array([100, *[2] * 5]), np.array([100.0, 10, 0, 0, 0, 50])
    orders = [metrics.shifted(accuracies[np.r_[0, 1 + np.roll(np.arange(5), k)]], np.array([100, 6, 5, 4, 3, 2]), 50) for k in range(5)]
    assert metrics.shifted(accuracies, counts, 50) == pytest.approx(np.mean(orders), abs=0.01)
    assert metrics.shifted(np.array([90.0, 10, 50]), np.array([7, 7, 7]), 50) == 50
    assert metrics.shifted(np.array([80, np.nan]), np.array([9, 1]), 50, backward=True) == 80
