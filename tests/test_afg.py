"""AFG against GLAG's equations: float64 loops for Eq. 5-10, moments of the draws, β's rule, the balanced set, distillation."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline import generation
from pipeline.calibration import ClassGaussians, Support, calibrated_mean, calibrated_noise, support
from pipeline.heads import afg
from tests.conftest import make_features


def gaussians(train):
    x, labels = torch.tensor(train.features, dtype=torch.float64), torch.tensor(train.labels)
    return x, labels, ClassGaussians(x, labels, train.classes)


def statistics_by_loop(train):
    """Eq. 5 and 6, one sample at a time."""
    means, covariances = [], []
    for k in range(train.classes):
        members = train.features[train.labels == k].astype(float)
        means.append(sum(members) / len(members))
        scatter = sum(np.outer(x - means[k], x - means[k]) for x in members)
        covariances.append(scatter / max(len(members) - 1, 1))
    return means, covariances


def support_by_loop(x, label, train, means, size):
    """Eq. 7 and 10: the nearest classes with more samples, and their weights N / d."""
    counts = train.class_counts
    distances = {k: np.sqrt(((x - means[k]) ** 2).sum()) for k in range(train.classes) if counts[k] > counts[label]}
    nearest = sorted(distances, key=distances.get)[:size]
    return {k: counts[k] / distances[k] for k in nearest}


def test_class_statistics_are_eq_5_and_6(train):
    _, _, fitted = gaussians(train)
    means, covariances = statistics_by_loop(train)
    np.testing.assert_allclose(fitted.mean, means)
    for centred, covariance in zip(fitted.centred, covariances, strict=True):
        np.testing.assert_allclose(centred.T @ centred, covariance, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_support_and_weights_are_eq_7_and_10(train, size):
    x, labels, fitted = gaussians(train)
    means, _ = statistics_by_loop(train)
    found = support(x, labels, fitted, size)
    for i in range(len(x)):
        omega = support_by_loop(x[i].numpy(), labels[i].item(), train, means, size)
        total = sum(omega.values())
        actual = {k.item(): w.item() for k, w in zip(found.classes[i], found.weights[i], strict=True) if w > 0}
        assert actual.keys() == omega.keys()
        for k in omega:
            assert actual[k] == pytest.approx(omega[k] / total, rel=1e-9)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_calibrated_mean_is_eq_8(train, beta):
    x, labels, fitted = gaussians(train)
    means, _ = statistics_by_loop(train)
    actual = calibrated_mean(x, support(x, labels, fitted, 2), torch.full((len(x),), beta, dtype=torch.float64), fitted)
    for i in range(len(x)):
        omega = support_by_loop(x[i].numpy(), labels[i].item(), train, means, 2)
        if not omega:  # the largest class has no support and stays where it is
            np.testing.assert_allclose(actual[i], x[i])
            continue
        borrowed = sum(w * means[k] for k, w in omega.items()) / sum(omega.values())
        np.testing.assert_allclose(actual[i], (1 - beta) * x[i].numpy() + beta * borrowed, rtol=1e-9)


@pytest.mark.parametrize(("label", "beta", "gamma"), [(1, 0.6, 0.0), (3, 0.6, 0.1), (4, 0.4, 0.0), (4, 0.0, 0.1), (2, 1.0, 0.0)])
def test_moments_of_the_draws_are_eq_9(train, label, beta, gamma):
    """Mean 0 and the covariance of Eq. 9, for classes of 25, 9, 3 and 1 samples (rank-deficient ones among them)."""
    x, labels, fitted = gaussians(train)
    means, covariances = statistics_by_loop(train)
    i = int(np.flatnonzero(train.labels == label)[0])
    omega = support_by_loop(x[i].numpy(), label, train, means, 2)
    shared = sum(w * covariances[k] for k, w in omega.items()) / sum(omega.values())
    expected = (1 - beta) ** 2 * covariances[label] + beta**2 * shared + gamma * np.eye(train.dim)

    draws = 200_000
    found = support(x, labels, fitted, 2)
    repeated = Support(found.classes[i].repeat(draws, 1), found.weights[i].repeat(draws, 1))
    generator = torch.Generator().manual_seed(0)
    betas = torch.full((draws,), beta, dtype=torch.float64)
    noise = calibrated_noise(torch.full((draws,), label), repeated, betas, gamma, fitted, generator).numpy()
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs(noise.mean(0)).max() < 5 * np.sqrt(np.diag(expected).max() / draws)
    assert np.abs(np.cov(noise.T) - expected).max() < 0.02 * scale.max()


def test_draws_of_different_samples_are_independent(train):
    _, _, fitted = gaussians(train)
    generator = torch.Generator().manual_seed(0)
    noise = torch.stack([fitted.noise(torch.tensor([0, 0]), generator) for _ in range(4000)])  # (draws, 2, d)
    correlation = np.corrcoef(noise[:, 0].T, noise[:, 1].T)[:8, 8:]
    assert np.abs(correlation).max() < 0.08


def test_a_class_of_one_sample_has_covariance_zero(train):
    _, _, fitted = gaussians(train)
    assert not fitted.noise(torch.tensor([4, 4]), torch.Generator()).any()


@pytest.mark.parametrize("counts", [(60, 25, 9, 3, 1), (7, 7, 7), (10, 0, 4)])
def test_real_and_generated_samples_balance_every_class(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    plan = generation.balanced_plan(labels, np.random.default_rng(0))
    assert np.array_equal(plan.labels, labels[plan.samples])
    for k, count in enumerate(counts):
        mine = plan.labels == k
        assert mine.sum() == (max(counts) if count else 0)
        assert (mine & ~plan.generated).sum() == count
        sources = np.bincount(plan.samples[mine & plan.generated], minlength=len(labels))[labels == k]
        assert count == 0 or np.ptp(sources) <= 1  # spread evenly over the class's samples
    assert sorted(plan.samples[~plan.generated]) == list(range(len(labels)))  # each real one just once


def test_each_epoch_spreads_and_orders_anew():
    labels = np.repeat([0, 1], [10, 3])
    rng = np.random.default_rng(0)
    first, second = generation.balanced_plan(labels, rng), generation.balanced_plan(labels, rng)
    assert not np.array_equal(first.samples, second.samples)


def test_generated_features_have_the_calibrated_mean(train):
    """Through the whole path, in Tukey's space with λ = 1: real samples as they are, tail draws around Eq. 8, head draws around μ."""
    moved = dataclasses.replace(train, features=train.features + 100)  # far from 0, so that clipping plays no part
    source = generation.Source(moved, np.array([True, False, False, False, False]), power=1.0, size=2, gamma=0.0)
    i, draws = 70, 20_000
    assert train.labels[i] == 1
    samples = np.array([i, *[i] * draws, *[0] * draws])
    plan = generation.Plan(train.labels[samples], samples, np.arange(len(samples)) > 0)
    features = source.generate(plan, torch.full((5,), 0.5), torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_array_equal(features[0], moved.features[i])
    means, _ = statistics_by_loop(moved)
    np.testing.assert_allclose(features[1 : draws + 1].mean(0), 0.5 * moved.features[i] + 0.5 * means[0], atol=0.05)
    np.testing.assert_allclose(features[draws + 1 :].mean(0), means[0], atol=0.05)


@pytest.mark.parametrize("power", [0.5, 0.9, 1.0])
def test_tukeys_ladder_and_back(power):
    x = torch.tensor([[0.0, 0.25, 4.0], [9.0, 1.0, 0.0]])
    np.testing.assert_allclose(generation.bend(x, power), x.numpy() ** power, rtol=1e-6)
    torch.testing.assert_close(generation.bend(generation.bend(x, power), 1 / power), x)
    torch.testing.assert_close(generation.bend(-x, power), -generation.bend(x, power))


@pytest.mark.parametrize("nonnegative", [True, False])
def test_generated_features_stay_where_real_ones_are(nonnegative):
    train = make_features(nonnegative=nonnegative)
    source = generation.Source(train, np.zeros(5, bool), power=0.9, size=2, gamma=0.1)
    plan = generation.balanced_plan(train.labels, np.random.default_rng(0))
    features = source.generate(plan, torch.full((5,), 0.6), torch.Generator().manual_seed(0))
    assert torch.isfinite(features).all()
    assert (features >= 0).all() == nonnegative


def test_all_zero_features_give_no_nan(train):
    zero = dataclasses.replace(train, features=np.zeros_like(train.features))
    fitted = afg.Head(epochs=1, head=20).fit(zero, None, 0)
    assert np.isfinite(fitted.weight).all()


@pytest.mark.parametrize(
    ("counts", "above", "expected"),
    [
        ([300, 150, 100, 20], 100, [True, True, False, False]),
        ([90, 80, 70, 5, 4, 3], 100, [True, True, False, False, False, False]),  # none is larger: the largest third
        ([300, 200, 150], 100, [True, False, False]),  # all are larger: the largest third
        ([9, 8], 100, [True, False]),
    ],
)
def test_head_classes(counts, above, expected):
    assert afg.head_classes(np.array(counts), above).tolist() == expected


def test_beta_moves_by_the_rule():
    beta = np.array([0.6, 0.6, 0.6, 0.95, 0.0])
    moved = afg.moved(beta, before=np.array([1.0, 1, 1, 1, 1]), after=np.array([1.5, 0.5, 1, 2, 2]))
    np.testing.assert_allclose(moved, [0.66, 0.54, 0.6, 1.0, 0.0])


def test_betas_path_follows_the_validation_signal(train, val, monkeypatch):
    """fit moves β of tail classes, and of no other, by what the validation set says after each epoch."""
    signals = iter(np.array([[0, 0, 0, 0, 0], [1, 1, 1, -1, 0], [2, 0, 2, -2, 0]], float))
    monkeypatch.setattr(afg, "goodness", lambda *arguments: next(signals))
    record = afg.Head(epochs=2, head=50, beta=0.5).fit(train, val, 0).record
    np.testing.assert_allclose(record["beta"], [[0.5] * 5, [0.5, 0.55, 0.55, 0.45, 0.5], [0.5, 0.495, 0.605, 0.405, 0.5]])
    assert record["selected_on"] == "val"


def test_a_fixed_beta_does_not_move_and_is_selected_on_nothing(train, val):
    record = afg.Head(epochs=2, head=50, beta=0.5, adaptive=False).fit(train, val, 0).record
    assert record["beta"] == [[0.5] * 5] * 3
    assert record["selected_on"] == "nothing"


def test_tail_classes_without_validation_are_judged_on_training(train, val):
    def without(*classes):
        kept = ~np.isin(val.labels, classes)
        return dataclasses.replace(val, features=val.features[kept], labels=val.labels[kept])

    tail = np.array([False, True, True, True, True])
    judge, where = afg.judging_set(train, without(3, 4), tail)
    assert where == "val + train"
    assert judge.class_counts.tolist() == [10, 10, 10, 3, 1]
    judge, where = afg.judging_set(train, without(0), tail)  # a head class: its β does not move
    assert where == "val"
    assert judge.class_counts.tolist() == [0, 10, 10, 10, 10]
    assert afg.judging_set(train, val, tail) == (val, "val")
    assert afg.judging_set(train, None, tail) == (train, "train")


@pytest.mark.parametrize("chunk", [7, 10_000])
def test_goodness_is_minus_mean_loss_or_accuracy(train, chunk, monkeypatch):
    monkeypatch.setattr(afg, "CHUNK", chunk)
    z = train.classifier.scores(train.features).astype(float)
    log_p = z - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)) - z.max(1, keepdims=True)
    rows = [np.flatnonzero(train.labels == k) for k in range(5)]
    student = afg.Student("lws", torch.tensor(train.classifier.weight), torch.tensor(train.classifier.bias), 0)
    loss = [np.mean([log_p[i, k] for i in rows[k]]) for k in range(5)]
    right = [np.mean([z[i].argmax() == k for i in rows[k]]) for k in range(5)]
    np.testing.assert_allclose(afg.goodness(student, train, "val_loss"), loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(afg.goodness(student, train, "val_accuracy"), right)


def distillation_by_loop(student, teacher, labels, heads, t):
    terms = []
    for s, z, k in zip(student, teacher, labels, strict=True):
        if heads[k]:
            p, q = np.exp(z / t) / np.exp(z / t).sum(), np.exp(s / t) / np.exp(s / t).sum()
            terms.append(t**2 * sum(a * np.log(a / b) for a, b in zip(p, q, strict=True)))
    return np.mean(terms)


def distillation_batch(seed=0):
    rng = np.random.default_rng(seed)
    student, teacher = (torch.tensor(rng.normal(size=(12, 5)), requires_grad=True) for _ in range(2))
    return student, teacher.detach(), torch.tensor(rng.integers(0, 5, 12)), torch.tensor([True, True, False, False, False])


def test_loss_is_eq_11():
    student, teacher, labels, heads = distillation_batch()
    head = afg.Head(temperature=3.0)
    actual = head.loss(student, teacher, labels, heads, alpha=0.7)
    ce = torch.nn.functional.cross_entropy(student, labels)
    kd = distillation_by_loop(student.detach().numpy(), teacher.numpy(), labels, heads, 3.0)
    assert actual.item() == pytest.approx(ce.item() + 0.7 * kd, rel=1e-9)


def test_distillation_touches_head_classes_only():
    student, teacher, labels, heads = distillation_batch()
    head = afg.Head()
    (with_kd,) = torch.autograd.grad(head.loss(student, teacher, labels, heads, 0.7), student)
    (without,) = torch.autograd.grad(head.loss(student, teacher, labels, heads, 0.0), student)
    touched = (with_kd - without).abs().sum(1) > 1e-12
    assert touched.tolist() == heads[labels].tolist()


def test_distillation_is_zero_for_the_teacher_itself_and_at_the_start():
    student, teacher, labels, heads = distillation_batch()
    ce = torch.nn.functional.cross_entropy(teacher, labels)
    torch.testing.assert_close(afg.Head().loss(teacher, teacher, labels, heads, 0.7), ce)
    ce = torch.nn.functional.cross_entropy(student, labels)
    torch.testing.assert_close(afg.Head().loss(student, teacher, labels, heads, 0.0), ce)
    torch.testing.assert_close(afg.Head(distill=False).loss(student, teacher, labels, heads, 0.7), ce)


@pytest.mark.parametrize("kind", ["lws", "crt"])
def test_both_classifiers_train_and_batches_cover_the_balanced_set(train, val, kind, monkeypatch):
    sizes = []
    original = afg.Head.loss

    def counted(self, logits, *others):
        sizes.append(len(logits))
        return original(self, logits, *others)

    monkeypatch.setattr(afg.Head, "loss", counted)
    monkeypatch.setattr(afg, "CHUNK", 100)  # several chunks an epoch
    fitted = afg.Head(epochs=8, batch=32, head=20, lr=0.01, classifier=kind).fit(train, val, 0)
    assert sum(sizes) == 8 * 5 * 60
    assert (fitted.predict(val.features) == val.labels).mean() > 0.6
