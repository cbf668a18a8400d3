"""τ searched and learned, and post-hoc logit adjustment: against plain loops over every value."""

import dataclasses

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import balanced_accuracy_score

from pipeline import search
from pipeline.classifier import Classifier
from pipeline.heads import logit_adjust, tau
from pipeline.search import GRID, best, judges
from tests.conftest import make_features


@pytest.fixture
def harder():
    """A training split whose stage one favours large classes, and 200 more samples of each class."""
    return (make_features(counts, spread=0.6, seed=3) for counts in ((60, 25, 9, 3, 1), (40,) * 5))


def rescaled(train, t):
    """Stage one's classifier by Eq. 3 of Kang et al., in float64."""
    weight = train.classifier.weight.astype(float)
    return weight / np.linalg.norm(weight, axis=1, keepdims=True) ** t


@pytest.mark.parametrize("select", ["val", "train"])
def test_tau_is_the_best_of_the_grid(harder, select):
    train, val = harder
    judge = {"val": val, "train": train}[select]
    accuracies = [balanced_accuracy_score(judge.labels, (judge.features @ rescaled(train, t).T).argmax(1)) for t in GRID]
    fitted = tau.Head(select=select).fit(train, val, 0)
    assert fitted.record["selected_on"] == select
    np.testing.assert_allclose(fitted.record["tried"]["accuracy"], 100 * np.array(accuracies), atol=0.006)
    chosen = fitted.record["chosen"]["tau"]
    assert chosen == pytest.approx(GRID[int(np.argmax(accuracies))])
    np.testing.assert_allclose(fitted.weight, rescaled(train, chosen), rtol=1e-5)
    assert len(set(accuracies)) > 3


def test_of_equal_values_the_smallest_is_taken(train, val):
    """Weights of one length give the same predictions under every τ."""
    alike = Classifier.linear(rescaled(train, 1.0), np.zeros(5))
    assert tau.Head(select="val").fit(dataclasses.replace(train, classifier=alike), val, 0).record["chosen"]["tau"] == 0


def test_learned_tau_minimises_class_balanced_cross_entropy(harder):
    train, _ = harder

    def loss(t):
        each = -log_softmax(train.features @ rescaled(train, t).T, axis=1)[np.arange(len(train.labels)), train.labels]
        return np.mean([each[train.labels == k].mean() for k in range(5)])

    fitted = tau.Head(select="learn").fit(train, None, 0)
    found, around = fitted.record["chosen"]["tau"], np.linspace(0, 3, 3001)
    assert found == pytest.approx(around[np.argmin([loss(t) for t in around])], abs=2e-3)
    assert 0.01 < found < 2.99
    assert fitted.record["selected_on"] == "train"


def test_learned_tau_of_a_large_set_learns_from_balanced_draws(harder, monkeypatch):
    train, _ = harder
    exact = tau.Head(select="learn").fit(train, None, 0).record["chosen"]["tau"]
    monkeypatch.setattr(tau, "LOGITS", 5 * 90)
    monkeypatch.setattr(tau, "BLOCK", 7)
    assert tau.Head(select="learn").fit(train, None, 0).record["chosen"]["tau"] == pytest.approx(exact, abs=0.15)


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_additive_adjustment_is_bayes_rule(train, val, t):
    fitted = logit_adjust.Head(tau=t).fit(train, None, 0)
    share = train.class_counts / train.class_counts.sum()
    expected = train.classifier.scores(val.features).astype(float) - t * np.log(share)
    np.testing.assert_allclose(fitted.scores(val.features), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("t", [0.0, 0.4])
def test_multiplicative_adjustment_sets_the_norms(train, t):
    fitted = logit_adjust.Head(tau=t, form="multiplicative").fit(train, None, 0)
    np.testing.assert_allclose(np.linalg.norm(fitted.weight, axis=1), (60 / train.class_counts) ** t, rtol=1e-5)
    np.testing.assert_allclose(np.abs(rescaled(train, 1.0) * fitted.weight).sum(1), np.linalg.norm(fitted.weight, axis=1), rtol=1e-5)
    assert not fitted.bias.any()


@pytest.mark.parametrize("form", ["additive", "multiplicative"])
@pytest.mark.parametrize("select", ["val", "train"])
def test_adjustment_is_the_best_of_the_grid(harder, form, select):
    train, val = harder
    judge = {"val": val, "train": train}[select]
    predicted = [logit_adjust.Head(tau=float(t), form=form).fit(train, None, 0).predict(judge.features) for t in GRID]
    accuracies = [balanced_accuracy_score(judge.labels, p) for p in predicted]
    fitted = logit_adjust.Head(select=select, form=form).fit(train, val, 0)
    assert fitted.record["chosen"]["tau"] == pytest.approx(GRID[int(np.argmax(accuracies))])
    np.testing.assert_allclose(fitted.record["tried"]["accuracy"], 100 * np.array(accuracies), atol=0.006)


@pytest.mark.parametrize("head", [tau, logit_adjust])
def test_without_validation_images_training_images_choose(harder, head):
    train, val = harder
    assert head.Head(select="val").fit(train, None, 0).record["selected_on"] == "train"
    lacking = dataclasses.replace(val, features=val.features[val.labels > 0], labels=val.labels[val.labels > 0])
    assert head.Head(select="val").fit(train, lacking, 0).record["selected_on"] == "val + train"


def test_judges_of_a_class_without_validation_images_are_its_training_images(harder):
    train, val = harder
    lacking = dataclasses.replace(val, features=val.features[val.labels > 1], labels=val.labels[val.labels > 1])
    judge, split = judges(train, lacking)
    assert split == "val + train"
    assert judge.class_counts.tolist() == [60, 25, 40, 40, 40]
    asked = np.array([False, True, True, True, True])
    assert judges(train, lacking, asked)[0].class_counts.tolist() == [0, 25, 40, 40, 40]
    assert judges(train, lacking, np.array([False, False, True, True, True])) == (lacking, "val")


def test_an_absent_class_is_never_the_answer(harder):
    """Neither while values are judged nor afterwards, though its logit is the largest."""
    _, val = harder
    absent = np.array([True, False, False, False, False])
    classifier = Classifier.linear(np.zeros((5, 8)), [9, 0, 0, 0, 0], absent=absent)
    index, accuracies = best(val, classifier, np.multiply, np.ones((2, 5)))
    assert index == 0
    np.testing.assert_allclose(accuracies, 1 / 5)  # of the first class present, all are right


def test_of_equals_the_first_whatever_the_order_of_their_sums(monkeypatch):
    """Means of the same accuracies in another order may differ in their last bit."""
    judge = make_features((10,) * 10)
    rng = np.random.default_rng(0)
    for _ in range(200):
        row = rng.integers(0, 11, 10) / 10
        monkeypatch.setattr(search, "tries", lambda *_, row=row: np.stack([rng.permutation(row) for _ in range(5)]))
        assert best(judge, judge.classifier, np.add, np.zeros((5, 10)))[0] == 0
