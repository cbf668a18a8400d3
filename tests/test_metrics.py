"""Figures against scikit-learn and hand loops."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

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


def test_all_is_balanced_and_micro_plain_accuracy():
    labels, predicted = predictions()
    kept = labels < 5 - (np.arange(500) % 3)  # no longer balanced
    labels, predicted = labels[kept], predicted[kept].clip(max=4)
    accuracies = metrics.per_class_accuracy(labels, predicted, 5)
    figures = metrics.summary(accuracies, labels, predicted, metrics.groups(np.array([200, 101, 100, 20, 19]), 100, 20))
    assert figures["all"] == round(100 * balanced_accuracy_score(labels, predicted), 2)
    assert figures["micro"] == round(100 * accuracy_score(labels, predicted), 2)
    assert figures["many"] == pytest.approx(accuracies[:2].mean(), abs=0.005)
    assert figures["medium"] == pytest.approx(accuracies[2:4].mean(), abs=0.005)
    assert figures["few"] == pytest.approx(accuracies[4], abs=0.005)


def test_group_means_weighted_by_size_give_all():
    labels, predicted = predictions()
    accuracies = metrics.per_class_accuracy(labels, predicted, 6)
    members = metrics.groups(np.array([300, 120, 60, 30, 10, 5]), 100, 20)
    figures = metrics.summary(accuracies, labels, predicted, members)
    assert sum(figures[name] * mask.sum() for name, mask in members.items()) / 6 == pytest.approx(figures["all"], abs=0.01)


def test_an_empty_group_is_none_and_not_zero():
    labels, predicted = predictions()
    figures = metrics.summary(metrics.per_class_accuracy(labels, predicted, 6), labels, predicted, metrics.groups(np.full(6, 50), 100, 20))
    assert figures["many"] is None
    assert figures["few"] is None
    assert figures["medium"] == figures["all"]


def test_every_class_is_in_exactly_one_group():
    counts = np.arange(200)
    assert (sum(mask.astype(int) for mask in metrics.groups(counts, 100, 20).values()) == 1).all()


def deviation_by_loop(train, test, size, rounds, rng):
    """MFW section 5.4, one draw at a time."""
    norm = lambda x: x / np.sqrt((x**2).sum())  # noqa: E731
    target = np.mean([norm(x) for x in test], axis=0)
    distances = []
    for _ in range(rounds):
        chosen = rng.permutation(len(train))[:size]
        distances.append(np.sqrt(((np.mean([norm(x) for x in train[chosen]], axis=0) - target) ** 2).sum()))
    return np.mean(distances)


@pytest.mark.parametrize("size", [1, 4, 29])
def test_feature_deviation_is_the_paper_s(size):
    rng = np.random.default_rng(0)
    train, test = rng.random((30, 5)), rng.random((40, 5)) + 0.2
    expected = deviation_by_loop(train, test, size, 2000, np.random.default_rng(1))
    assert metrics.feature_deviation(train, test, size, 4000, np.random.default_rng(2)) == pytest.approx(expected, rel=0.03)


def test_a_class_of_just_that_size_has_one_subset():
    rng = np.random.default_rng(0)
    train, test = rng.random((7, 5)), rng.random((40, 5))
    once = deviation_by_loop(train, test, 7, 1, rng)
    assert metrics.feature_deviation(train, test, 7, 1, rng) == pytest.approx(once, rel=1e-9)


def test_train_against_itself_is_the_sampling_floor():
    """sqrt((1 - ||m||²) / K), corrected for draws without replacement."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 50))
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    floor = np.sqrt((1 - (units.mean(0) ** 2).sum()) / 10 * (400 - 10) / 399)
    assert metrics.feature_deviation(x, x, 10, 3000, rng) == pytest.approx(floor, rel=0.02)
