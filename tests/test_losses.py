"""Losses against float64 loops written from the equations, and where they agree with each other."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.losses import balanced_softmax, cdt, ce, focal, graloss, ldam, logit_adjust

COUNTS = torch.tensor([500.0, 80.0, 9.0, 2.0])
LOG_PRIOR = (COUNTS / COUNTS.sum()).double().log().tolist()


def batch(seed=0, b=16):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(b, 4)), requires_grad=True), torch.tensor(rng.integers(0, 4, b))


def cross_entropy(row, label):
    """-log( exp(z_y) / sum exp(z) ) of one sample."""
    return math.log(sum(math.exp(v) for v in row)) - row[label]


def losses_of(loss, z, y, progress=0.5):
    actual = loss.build(COUNTS)(z, y, progress)
    assert actual.shape == y.shape
    return actual.detach()


def test_cross_entropy():
    z, y = batch()
    expected = [cross_entropy(row, k) for row, k in zip(z.tolist(), y.tolist(), strict=True)]
    np.testing.assert_allclose(losses_of(ce.Loss(), z, y), expected, rtol=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal(gamma):
    z, y = batch()
    expected = []
    for row, k in zip(z.tolist(), y.tolist(), strict=True):
        nats = cross_entropy(row, k)
        expected.append((1 - math.exp(-nats)) ** gamma * nats)
    np.testing.assert_allclose(losses_of(focal.Loss(gamma=gamma), z, y), expected, rtol=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_on_a_sample_that_is_certain_has_a_finite_gradient(gamma):
    z = torch.tensor([[200.0, 0.0, 0.0, 0.0]], requires_grad=True)
    focal.Loss(gamma=gamma).build(COUNTS)(z, torch.tensor([0]), 0.5).sum().backward()
    assert z.grad.abs().max() < 1e-6


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
def test_logit_adjust(tau):
    z, y = batch()
    shifted = [[v + tau * p for v, p in zip(row, LOG_PRIOR, strict=True)] for row in z.tolist()]
    expected = [cross_entropy(row, k) for row, k in zip(shifted, y.tolist(), strict=True)]
    np.testing.assert_allclose(losses_of(logit_adjust.Loss(tau=tau), z, y), expected, rtol=1e-6)


def test_balanced_softmax():
    z, y = batch()
    expected = []
    for row, k in zip(z.tolist(), y.tolist(), strict=True):
        total = sum(n * math.exp(v) for n, v in zip(COUNTS.tolist(), row, strict=True))
        expected.append(-math.log(COUNTS[k].item() * math.exp(row[k]) / total))
    np.testing.assert_allclose(losses_of(balanced_softmax.Loss(), z, y), expected, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.4])
def test_cdt(gamma):
    z, y = batch()
    divided = [[v / (500 / n) ** gamma for v, n in zip(row, COUNTS.tolist(), strict=True)] for row in z.tolist()]
    expected = [cross_entropy(row, k) for row, k in zip(divided, y.tolist(), strict=True)]
    np.testing.assert_allclose(losses_of(cdt.Loss(gamma=gamma), z, y), expected, rtol=1e-6)


@pytest.mark.parametrize(("scale", "margin"), [(30.0, 0.5), (10.0, 0.3), (1.0, 0.0)])
def test_ldam(scale, margin):
    """On logits s cos, the target's cosine is lowered by m (n_min / n_y)^(1/4), and no other."""
    cosines, y = batch()
    expected = []
    for row, k in zip(cosines.tolist(), y.tolist(), strict=True):
        lowered = list(row)
        lowered[k] -= margin * (2 / COUNTS[k].item()) ** 0.25
        expected.append(cross_entropy([scale * v for v in lowered], k))
    np.testing.assert_allclose(losses_of(ldam.Loss(scale=scale, max_margin=margin), scale * cosines, y), expected, rtol=1e-6)


def test_ldam_gives_the_rarest_class_the_whole_margin():
    z = torch.zeros(4, 4, dtype=torch.float64)
    loss = losses_of(ldam.Loss(scale=30.0, max_margin=0.5), z, torch.arange(4))
    margins = [math.log((math.exp(v) - 1) / 3) / 30 for v in loss.tolist()]  # loss = log(1 + 3 exp(s Δ))
    np.testing.assert_allclose(margins, [0.5 * (2 / n) ** 0.25 for n in COUNTS.tolist()], rtol=1e-5)


ALPHA = {
    (2.0, 1.0, False): lambda t: 2**t - 1,
    (4.0, 0.5, False): lambda t: 0.5 * (4**t - 1),
    (8.0, 1.0, True): lambda t: (8**t - 1) / 7,
    (1.0, 0.7, True): lambda t: 0.7 * t,
    (0.25, 1.0, True): lambda t: (1 - 0.25**t) / 0.75,
    (0.25, -1 / 0.75, False): lambda t: (1 - 0.25**t) / 0.75,
}


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.995])
@pytest.mark.parametrize(("c", "s", "normalise"), ALPHA)
def test_graloss_is_eq_3_and_4(progress, c, s, normalise):
    z, y = batch()
    alpha = ALPHA[c, s, normalise](progress)
    shifted = [[v + alpha * p for v, p in zip(row, LOG_PRIOR, strict=True)] for row in z.tolist()]
    expected = [cross_entropy(row, k) for row, k in zip(shifted, y.tolist(), strict=True)]
    loss = graloss.Loss(c=c, s=s, normalise=normalise)
    np.testing.assert_allclose(losses_of(loss, z, y, progress), expected, rtol=1e-6)
    assert loss.alpha(progress) == pytest.approx(alpha, abs=1e-12)


def test_graloss_schedules_are_convex_linear_and_concave():
    t = np.linspace(0, 1, 21)
    bends = [np.diff([graloss.Loss(c=c, normalise=True).alpha(x) for x in t], 2) for c in (8.0, 2.0, 1.0, 0.5)]
    assert bends[0].min() > 0 and bends[1].min() > 0
    assert np.abs(bends[2]).max() < 1e-12
    assert bends[3].max() < 0
    near = [graloss.Loss(c=1 + 1e-6, normalise=True).alpha(x) for x in t]
    np.testing.assert_allclose(near, t, atol=1e-6)  # the linear one is their limit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c": 1.0}, "c = 1 gives α = 0 throughout; the linear schedule is c: 1.0 with normalise: true"),
        ({"c": 0.5}, "c = 0.5 and s = 1 give a falling α; choose s of the other sign or normalise: true"),
        ({"s": -1.0}, "c = 2 and s = -1 give a falling α"),
        ({"s": 0.0}, "c = 2 and s = 0 give a falling α"),
        ({"c": 0.5, "s": -1.0, "normalise": True}, "falling α"),
    ],
)
def test_graloss_refuses_a_schedule_that_does_not_grow(changes, message):
    with pytest.raises(ValidationError, match=message):
        graloss.Loss(**changes)


SAME = [
    (balanced_softmax.Loss(), logit_adjust.Loss(tau=1.0), 0.5),
    (logit_adjust.Loss(tau=0.0), ce.Loss(), 0.5),
    (graloss.Loss(c=2.0, s=1.0), ce.Loss(), 0.0),
    (graloss.Loss(c=2.0, s=1.0), logit_adjust.Loss(tau=1.0), 1.0),
    (cdt.Loss(gamma=0.0), ce.Loss(), 0.5),
    (ldam.Loss(scale=1.0, max_margin=0.0), ce.Loss(), 0.5),
    (focal.Loss(gamma=0.0), ce.Loss(), 0.5),
]


@pytest.mark.parametrize(("one", "other", "progress"), SAME)
def test_where_two_losses_are_one(one, other, progress):
    """In value and gradient."""
    results = []
    for loss in (one, other):
        z, y = batch()
        value = loss.build(COUNTS.double())(z, y, progress)
        value.sum().backward()
        results.append((value.detach(), z.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [logit_adjust.Loss(tau=1.5), balanced_softmax.Loss(), cdt.Loss(), graloss.Loss()])
def test_on_balanced_classes_they_are_cross_entropy(loss):
    z, y = batch()
    equal = torch.full((4,), 7.0)
    torch.testing.assert_close(loss.build(equal)(z, y, 0.9), ce.Loss().build(equal)(z, y, 0.9))
