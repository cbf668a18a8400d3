"""AFG against GLAG's equations: float64 loops for Eq. 5-10, moments of the draws, β's rule, the balanced set, distillation."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from pipeline import calibration, generation
from pipeline.calibration import ClassGaussians, Terms, support
from pipeline.classifier import Transform
from pipeline.heads import afg, crt, lws
from pipeline.search import judges
from pipeline.students import Scales
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


def double(train, offset=0.0):
    """The same features in float64; those far from 0 are not clipped there."""
    return dataclasses.replace(train, features=train.features.astype(float) + offset)


def draws_of(fitted, k, n, mean=0.0, noise=1.0, seed=0):
    """n draws of mean μ_k + noise e_k, (n, d)."""
    sums, ones, zeros = fitted.mean.new_zeros(n, fitted.mean.shape[1]), fitted.mean.new_ones(n), torch.zeros(n, dtype=torch.int64)
    terms = Terms(torch.arange(n), zeros + k, mean * ones, noise * ones, 0 * ones, zeros)
    fitted.add(sums, terms, torch.Generator().manual_seed(seed))
    return sums


def without_noise(monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda *shape, generator, device: torch.zeros(*shape, device=device))


@pytest.mark.parametrize("tall", [0, 2, 1000])
def test_class_statistics_are_eq_5_and_6(train, tall, monkeypatch):
    """Draws are linear in z, so unit vectors in its place give the factor F with Fᵀ F = Σ; of features, or of a triangle (`TALL`)."""
    monkeypatch.setattr(calibration, "TALL", tall)
    _, _, fitted = gaussians(train)
    means, covariances = statistics_by_loop(train)
    np.testing.assert_allclose(fitted.mean, means)
    monkeypatch.setattr(torch, "randn", lambda *shape, generator, device: torch.eye(*shape, device=device))
    for k, covariance in enumerate(covariances):
        factor = draws_of(fitted, k, len(fitted.triangles.get(k, fitted.members[k]))).numpy()
        np.testing.assert_allclose(factor.T @ factor, covariance, atol=1e-12)


@pytest.mark.parametrize("dead", [0, 5, 8])
def test_the_triangle_of_a_class_is_its_covariance_whatever_the_rank(train, dead):
    features = train.features.copy()
    features[:, :dead] = 3  # as behind a ReLU that never or always fires
    train = dataclasses.replace(train, features=features)
    _, _, fitted = gaussians(train)
    assert list(fitted.triangles) == [0, 1]
    for k, factor in fitted.triangles.items():
        assert factor.shape == (8, 8)
        np.testing.assert_allclose(factor.T @ factor / (train.class_counts[k] - 1), statistics_by_loop(train)[1][k], atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 9])
@pytest.mark.parametrize("rows", [7, 1024])
def test_support_and_weights_are_eq_7_and_10(train, size, rows, monkeypatch):
    monkeypatch.setattr(calibration, "ROWS", rows)  # several blocks
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


def test_supports_of_many_classes_agree_with_a_loop_in_single_precision():
    """Features far from the origin, where squared distances by products lose most of their digits; classes of equal size among them."""
    counts = np.repeat([40, 30, 20, 9, 9, 5, 2, 1], 6)
    train = make_features(np.random.default_rng(0).permutation(counts), dim=16, spread=1)
    train = dataclasses.replace(train, features=train.features + np.float32(100))
    x, labels = torch.tensor(train.features), torch.tensor(train.labels)
    found = support(x, labels, ClassGaussians(x, labels, train.classes), 3)
    means, _ = statistics_by_loop(train)
    for i in range(0, len(x), 5):
        omega = support_by_loop(train.features[i].astype(float), labels[i].item(), train, means, 3)
        actual = {k.item(): w.item() for k, w in zip(found.classes[i], found.weights[i], strict=True) if w > 0}
        assert actual == pytest.approx({k: w / sum(omega.values()) for k, w in omega.items()}, rel=1e-4)


def test_only_wanted_samples_get_a_support(train):
    x, labels, fitted = gaussians(train)
    wanted = torch.tensor([95, 61, 70])
    every, found = support(x, labels, fitted, 2), support(x, labels, fitted, 2, wanted)
    torch.testing.assert_close(found.weights[wanted], every.weights[wanted])
    assert torch.equal(found.classes[wanted], every.classes[wanted])
    assert found.weights.count_nonzero(1).nonzero()[:, 0].tolist() == sorted(wanted.tolist())


def source_of(train, is_head=(False,) * 5, **others):
    return generation.Source(train, np.array(is_head), **{"power": 1.0, "size": 2, "gamma": 0.0} | others)


def repeated(train, i, n):
    """A plan of n generated features from sample i."""
    return generation.Plan(np.repeat(train.labels[i], n), np.repeat(i, n), np.ones(n, bool))


@pytest.mark.parametrize("tall", [2, 1000])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_calibrated_mean_is_eq_8(train, beta, tall, monkeypatch):
    """All draws, where the noise is 0."""
    without_noise(monkeypatch)
    monkeypatch.setattr(calibration, "TALL", tall)
    train = double(train, 100)
    means, _ = statistics_by_loop(train)
    n = len(train.labels)
    plan = generation.Plan(train.labels, np.arange(n), np.ones(n, bool))
    actual = source_of(train).generate(plan, torch.full((5,), beta, dtype=torch.float64), torch.Generator())
    for i in range(n):
        omega = support_by_loop(train.features[i], train.labels[i], train, means, 2)
        if not omega:  # the largest class has no support and stays where it is
            np.testing.assert_allclose(actual[i], train.features[i])
            continue
        borrowed = sum(w * means[k] for k, w in omega.items()) / sum(omega.values())
        np.testing.assert_allclose(actual[i], (1 - beta) * train.features[i] + beta * borrowed, rtol=1e-9)


CASES = [(1, 0.6, 0.0), (3, 0.6, 0.1), (4, 0.4, 0.0), (4, 0.0, 0.1), (2, 1.0, 0.0), (0, 0.6, 0.0)]


def assert_moments(draws, mean, covariance):
    """First two moments of draws (n, d) within sampling error."""
    deviation = np.sqrt(np.diag(covariance).max())
    assert np.abs(draws.mean(0) - mean).max() < 5 * deviation / np.sqrt(len(draws)) + 1e-9
    assert np.abs(np.cov(draws.T) - covariance).max() < 0.02 * deviation**2 + 1e-12


@pytest.mark.parametrize("dispersion", ["identity", "all_entries"])
@pytest.mark.parametrize(("label", "beta", "gamma"), CASES)
def test_moments_of_the_draws_are_eq_8_and_9(train, label, beta, gamma, dispersion):
    """For classes of 60, 25, 9, 3 and 1 samples (rank-deficient ones among them), and both readings of γ."""
    train = double(train, 100)
    means, covariances = statistics_by_loop(train)
    i = int(np.flatnonzero(train.labels == label)[0])
    omega = support_by_loop(train.features[i], label, train, means, 2)
    weights = {k: w / sum(omega.values()) for k, w in omega.items()}
    beta_here = beta if weights else 0.0  # the largest class has no support
    mean = (1 - beta_here) * train.features[i] + beta_here * sum(w * means[k] for k, w in weights.items())
    expected = (1 - beta_here) ** 2 * covariances[label] + beta_here**2 * sum(w * covariances[k] for k, w in weights.items())
    expected = expected + gamma * (np.eye(train.dim) if dispersion == "identity" else np.ones((train.dim, train.dim)))

    source, generator = source_of(train, gamma=gamma, dispersion=dispersion), torch.Generator().manual_seed(0)
    draws = source.generate(repeated(train, i, 200_000), torch.full((5,), beta), generator).numpy()
    assert_moments(draws, mean, expected)


@pytest.mark.parametrize("label", range(5))
def test_moments_of_a_head_class_are_its_own(train, label):
    train = double(train, 100)
    means, covariances = statistics_by_loop(train)
    i = int(np.flatnonzero(train.labels == label)[0])
    source = source_of(train, [True] * 5, gamma=0.1)  # γ belongs to Eq. 9, so to tail classes
    draws = source.generate(repeated(train, i, 200_000), torch.full((5,), 0.6), torch.Generator().manual_seed(0)).numpy()
    assert_moments(draws, means[label], covariances[label])


@pytest.mark.parametrize("at_once", [1, 1000])
def test_draws_of_different_samples_are_independent(train, at_once, monkeypatch):
    monkeypatch.setitem(calibration.NUMBERS, "cpu", at_once)
    _, _, fitted = gaussians(train)
    noise = draws_of(fitted, 0, 8000).view(4000, 2, 8)
    correlation = np.corrcoef(noise[:, 0].T, noise[:, 1].T)[:8, 8:]
    assert np.abs(correlation).max() < 0.08


def test_a_class_of_one_sample_has_covariance_zero(train):
    _, _, fitted = gaussians(train)
    assert not draws_of(fitted, 4, 2).any()
    torch.testing.assert_close(draws_of(fitted, 4, 2, mean=1.0), fitted.mean[[4, 4]])


def test_single_and_double_precision_see_the_same_draws(train):
    single, other = (
        source_of(each, (True, False, False, False, False), power=0.9, gamma=0.1).generate(
            generation.balanced_plan(train.labels, np.random.default_rng(0)), torch.full((5,), 0.6), torch.Generator().manual_seed(0)
        )
        for each in (train, double(train))
    )
    assert (single.dtype, other.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), other, rtol=1e-4, atol=1e-4)


def test_features_that_are_sorted_already_are_not_copied(train):
    """Nor is any class of them."""
    source = source_of(train)
    assert source.bent.data_ptr() == train.features.ctypes.data
    parts = zip(source.gaussians.members, (0, 60, 85, 94, 97), strict=True)
    assert all(part.data_ptr() == source.bent[begin].data_ptr() for part, begin in parts)


@pytest.mark.parametrize("power", [1.0, 0.7])
def test_samples_may_come_in_any_order(train, power, monkeypatch):
    """A plan's samples count in the order of the file, whatever the order inside: here each draw is a mean around its own sample."""
    without_noise(monkeypatch)
    rows = np.random.default_rng(0).permutation(len(train.labels))
    mixed = dataclasses.replace(train, features=train.features[rows], labels=train.labels[rows])
    means = []
    for split in (train, mixed):
        plan = generation.Plan(split.labels, np.arange(len(rows)), np.ones(len(rows), bool))
        means.append(source_of(split, power=power).generate(plan, torch.full((5,), 0.3), torch.Generator()))
    np.testing.assert_allclose(means[1], means[0][rows], rtol=1e-4, atol=1e-4)


def test_all_happens_behind_stage_ones_transform(train):
    """As if the features had been transformed before; no transformed copy of them is made."""
    transform, plan = Transform(l2=True), generation.balanced_plan(train.labels, np.random.default_rng(0))
    behind = source_of(train, power=0.9, transform=transform)
    before = source_of(dataclasses.replace(train, features=transform(train.features)), power=0.9)
    one, two = (source.generate(plan, torch.full((5,), 0.6), torch.Generator().manual_seed(0)) for source in (behind, before))
    assert torch.equal(one, two)
    assert behind.real.data_ptr() == train.features.ctypes.data


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


@pytest.mark.parametrize("size", [1, 98, 299])
def test_a_part_of_the_balanced_set_is_a_random_part(train, size):
    """Entries of the whole set, none twice, and every class equally likely."""
    labels = train.labels
    rng = np.random.default_rng(0)
    seen = np.zeros(5)
    for _ in range(200):
        plan = generation.balanced_plan(labels, rng, size)
        assert len(plan.labels) == len(plan.samples) == len(plan.generated) == size
        assert np.array_equal(plan.labels, labels[plan.samples])
        assert np.unique(real := plan.samples[~plan.generated]).size == real.size
        assert not plan.generated[plan.labels == 0].any()  # the largest class needs none
        seen += np.bincount(plan.labels, minlength=5)
    assert np.abs(seen / (200 * size) - 0.2).max() < 5 * np.sqrt(0.16 / (200 * size))


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
        ([0, 150, 120, 130], 100, [False, True, False, False]),  # all that there are
        ([0, 5, 0, 4, 3, 0], 100, [False, True, False, False, False, False]),
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
    judge, where = judges(train, without(3, 4), tail)
    assert where == "val + train"
    assert judge.class_counts.tolist() == [10, 10, 10, 3, 1]
    judge, where = judges(train, without(0), tail)  # a head class: its β does not move
    assert where == "val"
    assert judge.class_counts.tolist() == [0, 10, 10, 10, 10]
    assert judges(train, val, tail) == (val, "val")
    assert judges(train, None, tail) == (train, "train")


@pytest.mark.parametrize("numbers", [56, 100_000])
def test_goodness_is_minus_mean_loss_or_accuracy(train, numbers, monkeypatch):
    monkeypatch.setattr(afg, "NUMBERS", numbers)  # 7 rows of 8 features at a time, or all
    z = train.classifier.scores(train.features).astype(float)
    log_p = z - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)) - z.max(1, keepdims=True)
    rows = [np.flatnonzero(train.labels == k) for k in range(5)]
    student = Scales(torch.tensor(train.classifier.weight), torch.tensor(train.classifier.bias))
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
@pytest.mark.parametrize("per_epoch", ["balanced", "real"])
def test_both_classifiers_train_and_batches_cover_the_epoch(train, val, kind, per_epoch, monkeypatch):
    sizes = []
    original = afg.Head.loss

    def counted(self, logits, *others):
        sizes.append(len(logits))
        return original(self, logits, *others)

    monkeypatch.setattr(afg.Head, "loss", counted)
    monkeypatch.setattr(afg, "NUMBERS", 800)  # several chunks an epoch
    epochs = {"balanced": 8, "real": 24}[per_epoch]
    fitted = afg.Head(epochs=epochs, batch=32, head=20, lr=0.01, classifier=kind, per_epoch=per_epoch).fit(train, val, 0)
    assert sum(sizes) == epochs * {"balanced": 5 * 60, "real": 98}[per_epoch]
    assert (fitted.predict(val.features) == val.labels).mean() > 0.6


@pytest.mark.parametrize(("classifier", "same"), [("lws", lws), ("crt", crt)])
def test_tukey_alone_is_the_classifier_on_bent_features(train, val, classifier, same):
    """Which predicts on bent features too."""
    fitted = afg.Head(tukey_only=True, classifier=classifier, power=0.5, epochs=3, batch=16, lr=0.05).fit(train, val, 2)
    bent = dataclasses.replace(train, features=np.sqrt(train.features))
    expected = same.Head(epochs=3, batch=16, lr=0.05).fit(bent, None, 2)
    np.testing.assert_allclose(fitted.weight, expected.weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted.scores(val.features), expected.scores(np.sqrt(val.features)), rtol=1e-4, atol=1e-4)
    assert "beta" not in fitted.record


def test_real_features_are_views_and_the_rest_is_fitted_on_clean_ones(train):
    views = np.stack([train.features + 100 * (v + 1) for v in range(3)]).astype(np.float16)
    viewed = dataclasses.replace(train, views=views)
    plan = generation.balanced_plan(train.labels, np.random.default_rng(0))
    beta = torch.full((5,), 0.5)
    plain, drawn = (
        generation.Source(viewed, np.zeros(5, bool), 1.0, 2, 0.0, views=on).generate(plan, beta, torch.Generator().manual_seed(0)).numpy()
        for on in (False, True)
    )
    assert np.array_equal(plain[plan.generated], drawn[plan.generated])
    view = np.round((drawn - plain)[~plan.generated].mean(1) / 100).astype(int)
    assert set(view) == {1, 2, 3}
    np.testing.assert_allclose(drawn[~plan.generated], views[view - 1, plan.samples[~plan.generated]], rtol=1e-6)


def test_a_single_class_has_no_tail_to_speak_of(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = afg.Head(epochs=2).fit(make_features((30,)), None, 0)
    assert fitted.predict(np.ones((3, fitted.dim), np.float32)).tolist() == [0, 0, 0]
    assert "tail" not in capsys.readouterr().out


def test_fit_hands_on_what_it_was_told(train, val, monkeypatch):
    """Generation gets the parameters and each epoch's own β, distillation its own α, the signal stage one's transform."""
    made, betas, alphas, transforms = [], [], [], []

    class Source(generation.Source):
        def __init__(self, *arguments):
            made.append(arguments)
            super().__init__(*arguments)

        def generate(self, plan, beta, *others):
            betas.append(beta.tolist())
            return super().generate(plan, beta, *others)

    def loss(self, *arguments):
        alphas.append(arguments[-1])
        return original(self, *arguments)

    signals = iter(np.array([[0, 0, 0, 0, 0], [1, 1, 1, -1, 0], [2, 0, 2, -2, 0], [0, 0, 0, 0, 0]], float))

    def goodness(student, judge, signal, transform):
        transforms.append(transform)
        return next(signals)

    original = afg.Head.loss
    monkeypatch.setattr(generation, "Source", Source)
    monkeypatch.setattr(afg.Head, "loss", loss)
    monkeypatch.setattr(afg, "goodness", goodness)
    options = {"power": 0.8, "support": 3, "gamma": 0.2, "dispersion": "all_entries", "views": False, "c": 3.0, "s": 0.5}
    record = afg.Head(epochs=3, batch=300, head=50, beta=0.5, **options).fit(train, val, 0).record
    assert list(made[0][2:6]) == [0.8, 3, 0.2, "all_entries"] and made[0][7] is False
    np.testing.assert_allclose(betas, record["beta"][:3], atol=1e-4)
    assert len({tuple(beta) for beta in betas}) == 3
    np.testing.assert_allclose(alphas, [0.5 * (3 ** (epoch / 3) - 1) for epoch in range(3)])
    assert all(transform == train.classifier.transform for transform in transforms)


def test_another_seed_draws_other_features(train, val):
    first, second = (afg.Head(epochs=1, batch=64, head=20).fit(train, val, seed).weight for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_tukey_alone_is_lws_in_tukeys_space(train):
    """With its rate, weight decay and views."""
    shared = {"epochs": 3, "batch": 16, "lr": 0.1, "weight_decay": 0.01}
    with_two = dataclasses.replace(train, views=np.stack([train.features, train.features + 1]))
    for views in (False, True):
        alone = afg.Head(tukey_only=True, power=1.0, views=views, **shared).fit(with_two, None, 4)
        same = lws.Head(views=views, **shared).fit(with_two, None, 4)
        np.testing.assert_allclose(alone.weight, same.weight, rtol=1e-5)
