"""MFW against its equations; where the network mixes."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.longtail import class_counts
from pipeline.mixing import mfw, none
from pipeline.network import Mix, Network


@pytest.mark.parametrize("scale", ["geometric", "arithmetic"])
def test_weakening_is_eq_12(scale):
    counts = [5000, 700, 90, 50]
    mu = math.exp(sum(math.log(n) for n in counts) / 4)
    if scale == "geometric":
        gamma = math.exp(math.sqrt(sum((math.log(n) - math.log(mu)) ** 2 for n in counts) / 4))
    else:
        gamma = math.sqrt(sum((n - sum(counts) / 4) ** 2 for n in counts) / 4)
    expected = [0.5 / (1 + math.exp(-max(-700.0, (n - mu) / (2 * gamma)))) for n in counts]
    actual = mfw.Mixing(beta=2.0, scale=scale).weakening(torch.tensor(counts, dtype=torch.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("kind", "beta"), [("exponential", 2.0), ("step", 0.01)])
@pytest.mark.parametrize("ratio", [100, 200])
def test_major_classes_are_weakened_by_half_and_minor_ones_not(kind, beta, ratio):
    """Section 3.4: s(N_1) ≈ 0.5 and s(N_10) ≈ 0."""
    weakening = mfw.Mixing(beta=beta).weakening(torch.tensor(class_counts(kind, 5000, ratio, 10), dtype=torch.float32))
    assert weakening[0] > 0.49
    assert weakening[-1] < 0.01
    assert (weakening.diff() <= 0).all()


def test_draws_keep_labels_and_stay_below_the_class_weight():
    counts = torch.tensor([5000.0, 300.0, 50.0])
    mixing = mfw.Mixing(after=1, alpha=0.5)
    labels = torch.arange(3).repeat(200)
    mix = mixing.build(counts)(labels, np.random.default_rng(0))
    assert mix.after == 1
    assert mix.label_weight is None
    assert sorted(mix.partner.tolist()) == list(range(600))
    assert ((mix.weight >= 0) & (mix.weight <= mixing.weakening(counts)[labels])).all()
    assert len(set(mix.weight[labels == 0].tolist())) > 190  # one λ for each sample, not one for the batch
    share = mix.weight[labels == 0] / mixing.weakening(counts)[0]
    assert abs(share.mean() - 0.5) < 0.1
    assert abs(share.var() - 1 / (4 * (2 * 0.5 + 1))) < 0.04  # variance of Beta(α, α)


def test_no_mixing_draws_nothing():
    assert none.Mixing().build(torch.ones(3))(torch.zeros(4, dtype=torch.long), np.random.default_rng(0)) is None


class Affine(nn.Module):
    """a x + b: a group whose effect a test can compute."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x):
        return self.a * x**2 + self.b


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_the_network_mixes_behind_the_group_asked_for(after):
    groups = [Affine(1.0, 2.0), Affine(0.5, -1.0), Affine(2.0, 0.0)]
    network = Network(groups, dim=3, classes=2)
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    partner, weight = torch.tensor([2, 0, 1, 3]), torch.tensor([0.1, 0.0, 0.5, 0.3])
    h = x
    for depth in range(4):
        if depth == after:
            h = torch.stack([(1 - weight[i]) * h[i] + weight[i] * h[partner[i]] for i in range(4)])
        if depth < 3:
            h = groups[depth](h)
    torch.testing.assert_close(network.features(x, Mix(after, partner, weight, None)), h.mean((2, 3)))


def test_the_gradient_reaches_the_partner():
    network = Network([nn.Identity()], dim=2, classes=2)
    x = torch.randn(2, 2, 3, 3, requires_grad=True)
    network.features(x, Mix(1, torch.tensor([1, 0]), torch.tensor([0.4, 0.0]), None))[0].sum().backward()
    torch.testing.assert_close(x.grad[0], torch.full((2, 3, 3), 0.6 / 9))
    torch.testing.assert_close(x.grad[1], torch.full((2, 3, 3), 0.4 / 9))
