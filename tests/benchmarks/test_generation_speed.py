"""AFG's draws at 512 dimensions beside the usual ways to draw from the same Gaussians: 200 classes, 1,280 to 5 samples each, as skewed as
ImageNet-LT, filled up to 1,280.
"""

import numpy as np
import pytest
import torch

from pipeline.features import Features
from pipeline.generation import Plan, Source, balanced_plan
from tests.benchmarks.timing import paired, report

D, C, MANY, BETA, CHUNK = 512, 200, 1280, 0.6, 65536
COUNTS = np.maximum((MANY * (5 / MANY) ** (np.arange(C) / (C - 1)) ** 0.62).astype(int), 5)
LOOPED = 12  # samples that the slow loop draws for
MANY_DRAWS = 20_000  # for the moments


@pytest.fixture(scope="module")
def train():
    """Signed features with correlated dimensions, so that no draw is clipped."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(C), COUNTS)
    mixing = rng.normal(size=(D, D)).astype(np.float32) / D**0.5
    x = rng.standard_normal((len(labels), D), np.float32) @ mixing + 2 * rng.standard_normal((C, D), np.float32)[labels]
    return Features(x, labels, C)


def afg(train, is_head):
    """A function that prepares as AFG does and draws a plan, chunk by chunk; it gives the last chunk."""
    room, generator, beta = torch.empty(CHUNK, D), torch.Generator().manual_seed(0), torch.full((C,), BETA)

    def draw(plan):
        source = Source(train, is_head, power=1.0, size=2, gamma=0.0)
        for start in range(0, len(plan.labels), CHUNK):
            last = source.generate(Plan(*(column[start : start + CHUNK] for column in plan)), beta, generator, room)
        return last

    return draw


def repeated(train, i):
    """A plan of features generated from sample i alone."""
    return Plan(np.full(MANY_DRAWS, train.labels[i]), np.full(MANY_DRAWS, i), np.ones(MANY_DRAWS, bool))


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
    mean, covariance = members.mean(0), members.T.cov()
    factor = torch.linalg.cholesky(covariance + ridge * torch.eye(D))
    return torch.addmm(mean, torch.randn(n, D, generator=generator), factor.T)


@pytest.mark.slow
def test_own_class_draws_are_far_faster_than_with_a_cholesky_factor_a_class(train):
    """An epoch of each, preparation included: all factors, or what AFG prepares. AFG also copies the real samples, and shuffles all."""
    ours, generator, x = afg(train, np.ones(C, bool)), torch.Generator().manual_seed(0), torch.tensor(train.features)
    for k in (0, 60, 150):  # of more samples than twice the dimensions, 79, and 12
        first = int(COUNTS[:k].sum())
        assert_moments(ours(repeated(train, first)), *exact(train, k))
        assert_moments(cholesky(x[first : first + COUNTS[k]], MANY_DRAWS, generator), *exact(train, k))

    def theirs():
        for members in x.split(COUNTS.tolist()):
            cholesky(members, MANY - len(members), generator)

    plan = balanced_plan(train.labels, np.random.default_rng(0))
    mine, beside, ratio = paired(lambda: ours(plan), theirs, 3, 5)
    what = f"AFG: {plan.generated.sum():,} draws of {C} classes' own Gaussians, {D}-d, all preparation"
    report(what, f"{mine:.2f} s", f"covariances, Cholesky factors, draws: {beside:.2f} s", f"{ratio:.1f}", "≥ 5")
    assert ratio >= 5


@pytest.mark.slow
def test_calibrated_draws_are_far_faster_than_a_loop_of_multivariate_normal(train):
    """Each tail sample has a mean and a covariance of its own. The loop makes them from those of the classes, which it is given, and draws
    all that one sample is to give in one call.
    """
    is_head = train.class_counts > 100
    ours, found = afg(train, is_head), Source(train, is_head, power=1.0, size=2, gamma=0.0).supports
    supports = [list(zip(*pair, strict=True)) for pair in zip(found.classes.tolist(), found.weights.tolist(), strict=True)]
    plan = balanced_plan(train.labels, np.random.default_rng(0))
    plan = Plan(*(column[plan.generated & ~is_head[plan.labels]] for column in plan))
    rng, draws = np.random.default_rng(1), np.bincount(plan.samples)
    some = rng.choice(np.unique(plan.samples), LOOPED, replace=False)
    statistics = {k: exact(train, k) for i in some for k in (train.labels[i], *(k for k, _ in supports[i]))}
    for i in some[:3]:
        assert_moments(ours(repeated(train, i)), *calibrated(train, statistics, supports, i))

    def loop():
        for i in some:
            rng.multivariate_normal(*calibrated(train, statistics, supports, i), draws[i])

    looped = int(draws[some].sum())
    mine, theirs, ratio = paired(lambda: ours(plan), loop, 2, 100 * looped / len(plan.samples))
    mine, theirs, ratio = mine / len(plan.samples), theirs / looped, ratio * len(plan.samples) / looped
    what = f"AFG: {len(plan.samples):,} calibrated draws, {D}-d, all preparation"
    beside = f"NumPy's `multivariate_normal`, {looped} draws of {LOOPED} samples: {1000 * theirs:.1f} ms each"
    report(what, f"{1e6 * mine:.1f} μs each", beside, f"{ratio:,.0f}", "≥ 100")
    assert ratio >= 100
