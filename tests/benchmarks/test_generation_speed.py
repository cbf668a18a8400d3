"""AFG's draws beside the usual ways to draw from the same Gaussians: classes of 1,280 to 5 samples, as skewed as ImageNet-LT's, filled up
to 1,280 each.
"""

import numpy as np
import pytest
import torch

from pipeline.features import Features
from pipeline.generation import Plan, Source, balanced_plan
from tests.benchmarks.timing import paired, report

LARGEST, BETA = 1280, 0.6
NUMBERS = 2**25  # of features that AFG draws at a time
LOOPED = 12  # samples that the slow loop draws for
MANY = 20_000  # draws, for the moments


def skewed(classes, dim):
    """Signed features with correlated dimensions, so that no draw is clipped."""
    rng, counts = np.random.default_rng(0), LARGEST * (5 / LARGEST) ** (np.arange(classes) / (classes - 1)) ** 0.62
    labels = np.repeat(np.arange(classes), np.maximum(counts.astype(int), 5))
    mixing = rng.standard_normal((dim, dim), np.float32) / np.float32(dim**0.5)
    x = rng.standard_normal((len(labels), dim), np.float32) @ mixing + 2 * rng.standard_normal((classes, dim), np.float32)[labels]
    return Features(x, labels, classes)


def afg(train, is_head):
    """A function that prepares as AFG does and draws a plan, chunk by chunk; it gives the last chunk."""
    chunk, generator, beta = NUMBERS // train.dim, torch.Generator().manual_seed(0), torch.full((train.classes,), BETA)
    room = torch.empty(chunk, train.dim)

    def draw(plan):
        source = Source(train, is_head, power=1.0, size=2, gamma=0.0)
        for start in range(0, len(plan.labels), chunk):
            last = source.generate(Plan(*(column[start : start + chunk] for column in plan)), beta, generator, room)
        return last

    return draw


def repeated(train, i):
    """A plan of features generated from sample i alone; few enough for one chunk."""
    many = min(MANY, NUMBERS // train.dim)
    return Plan(np.full(many, train.labels[i]), np.full(many, i), np.ones(many, bool))


def exact(train, k):
    """Mean and covariance of a class in float64 (Eq. 5-6)."""
    members = train.features[train.labels == k].astype(float)
    return members.mean(0), np.cov(members.T)


def calibrated(train, statistics, supports, i):
    """Mean and covariance of sample i's draws (Eq. 8-9) from those of the classes and its support set."""
    own, others = statistics[train.labels[i]], [(w, *statistics[k]) for k, w in supports[i]]
    mean = (1 - BETA) * train.features[i] + BETA * sum(w * m for w, m, _ in others)
    return mean, (1 - BETA) ** 2 * own[1] + BETA**2 * sum(w * covariance for w, _, covariance in others)


def assert_moments(draws, mean, covariance):
    """First two moments of Gaussian draws (m, d) within sampling error.

    E |x̄ - μ|² is tr Σ / m and E |S - Σ|² is (tr² Σ + |Σ|²) / (m - 1); the first has a relative deviation of sqrt(2) |Σ| / tr Σ.
    """
    draws, trace, square = draws.double().numpy(), np.trace(covariance), (covariance**2).sum()
    bound = 1 + 5 * (2 * square) ** 0.5 / trace
    assert ((draws.mean(0) - mean) ** 2).sum() <= bound * trace / len(draws)
    assert ((np.cov(draws.T) - covariance) ** 2).sum() <= bound * (trace**2 + square) / (len(draws) - 1)


def cholesky(members, n, generator, ridge=1e-4):
    """n draws of the Gaussian of members (n_k, d) through the factor of its covariance + ridge."""
    factor = torch.linalg.cholesky(members.T.cov() + ridge * torch.eye(members.shape[1]))
    return torch.addmm(members.mean(0), torch.randn(n, members.shape[1], generator=generator), factor.T)


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "dim", "bound"), [(200, 512, 2), (40, 2048, 5)])
def test_own_class_draws_are_faster_than_with_a_cholesky_factor_a_class(classes, dim, bound):
    """An epoch of each, all preparation included: class means here, covariances and factors there. AFG's draws are shuffled and stand among
    the real samples, which it copies; the others are a tensor a class.
    """
    train = skewed(classes, dim)
    ours, generator, parts = afg(train, np.ones(classes, bool)), torch.Generator().manual_seed(0), torch.tensor(train.features)
    parts = parts.split(train.class_counts.tolist())
    for k in (0, classes // 3, 3 * classes // 4):
        expected, first = exact(train, k), int(np.flatnonzero(train.labels == k)[0])
        assert_moments(ours(repeated(train, first)), *expected)
        assert_moments(cholesky(parts[k], MANY, generator), *expected)

    def theirs():
        for members in parts:
            cholesky(members, LARGEST - len(members), generator)

    plan = balanced_plan(train.labels, np.random.default_rng(0))
    mine, beside, ratio = paired(lambda: ours(plan), theirs, 3, bound)
    what = f"AFG: {plan.generated.sum():,} draws from {classes} classes' own Gaussians, {dim}-d, preparation included"
    report(what, f"{mine:.2f} s", f"covariance, Cholesky factor, draws: {beside:.2f} s", f"{ratio:.1f}", f"≥ {bound}")
    assert ratio >= bound


@pytest.mark.slow
def test_calibrated_draws_are_far_faster_than_a_loop_of_multivariate_normal():
    """Each tail sample has a mean and a covariance of its own. The loop makes them from those of the classes, which it is given, and draws
    in one call what AFG draws from one sample in an epoch.
    """
    train = skewed(200, 512)
    is_head = train.class_counts > 100
    ours, found = afg(train, is_head), Source(train, is_head, power=1.0, size=2, gamma=0.0).supports
    supports = [list(zip(*pair, strict=True)) for pair in zip(found.classes.tolist(), found.weights.tolist(), strict=True)]
    plan = balanced_plan(train.labels, np.random.default_rng(0))
    wanted = plan.generated & ~is_head[plan.labels]
    plan = Plan(*(column[wanted] for column in plan))
    rng, draws = np.random.default_rng(1), np.bincount(plan.samples)
    some = rng.choice(np.unique(plan.samples), LOOPED, replace=False)
    statistics = {k: exact(train, k) for i in some for k in (train.labels[i], *(k for k, _ in supports[i]))}
    for i in some[:3]:
        assert_moments(ours(repeated(train, i)), *calibrated(train, statistics, supports, i))

    def loop():
        for i in some:
            rng.multivariate_normal(*calibrated(train, statistics, supports, i), draws[i])

    every, looped = len(plan.samples), int(draws[some].sum())
    mine, theirs, ratio = paired(lambda: ours(plan), loop, 2, 100 * looped / every)
    mine, theirs, ratio = mine / every, theirs / looped, ratio * every / looped
    what = f"AFG: {every:,} calibrated draws, 512-d, preparation included"
    beside = f"`multivariate_normal` of NumPy, {looped} draws from {LOOPED} samples: {1000 * theirs:.1f} ms each"
    report(what, f"{1e6 * mine:.1f} μs each", beside, f"{ratio:,.0f}", "≥ 100")
    assert ratio >= 100
