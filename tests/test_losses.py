"""Losses against float64 loops written from the equations."""

import math

import numpy as np
import pytest
import torch

from pipeline.losses import ce, graloss

COUNTS = torch.tensor([500.0, 80.0, 9.0, 2.0])


def batch(seed=0, b=16):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(b, 4)), requires_grad=True), torch.tensor(rng.integers(0, 4, b))


def shifted_cross_entropy(z, y, shift):
    """-log( exp(z_y + shift_y) / sum exp(z + shift) ), one sample at a time."""
    return [
        -(row[k] + shift[k] - math.log(sum(math.exp(v + s) for v, s in zip(row, shift, strict=True)))) for row, k in zip(z, y, strict=True)
    ]


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.995])
@pytest.mark.parametrize(("c", "s"), [(2.0, 1.0), (4.0, 0.5)])
def test_graloss_is_eq_3_and_4(progress, c, s):
    z, y = batch()
    alpha = s * (c**progress - 1)
    prior = (COUNTS / COUNTS.sum()).double().tolist()
    expected = shifted_cross_entropy(z.tolist(), y.tolist(), [alpha * math.log(p) for p in prior])
    actual = graloss.Loss(c=c, s=s).build(COUNTS)(z, y, progress)
    assert actual.shape == (16,)
    np.testing.assert_allclose(actual.detach(), expected, rtol=1e-6)


def test_graloss_gradient_is_softmax_of_the_shifted_logits_minus_one_hot():
    z, y = batch()
    graloss.Loss().build(COUNTS)(z, y, 0.7).sum().backward()
    shifted = z.detach() + (2**0.7 - 1) * (COUNTS / COUNTS.sum()).log().double()
    expected = shifted.exp() / shifted.exp().sum(1, keepdim=True) - torch.eye(4, dtype=torch.float64)[y]
    torch.testing.assert_close(z.grad, expected, rtol=1e-5, atol=1e-7)


def test_graloss_starts_as_cross_entropy_and_ends_as_logit_adjustment():
    z, y = batch()
    loss = graloss.Loss(c=2.0, s=1.0)
    torch.testing.assert_close(loss.build(COUNTS)(z, y, 0.0), ce.Loss().build(COUNTS)(z, y, 0.0))
    assert loss.alpha(0.0) == 0
    adjusted = shifted_cross_entropy(z.tolist(), y.tolist(), (COUNTS / COUNTS.sum()).double().log().tolist())
    np.testing.assert_allclose(loss.build(COUNTS)(z, y, 1.0).detach(), adjusted, rtol=1e-6)


def test_graloss_on_balanced_classes_is_cross_entropy():
    z, y = batch()
    torch.testing.assert_close(graloss.Loss().build(torch.full((4,), 7.0))(z, y, 0.9), ce.Loss().build(COUNTS)(z, y, 0.9))


def test_cross_entropy_is_a_loop():
    z, y = batch()
    np.testing.assert_allclose(
        ce.Loss().build(COUNTS)(z, y, 0.5).detach(), shifted_cross_entropy(z.tolist(), y.tolist(), [0] * 4), rtol=1e-9
    )
