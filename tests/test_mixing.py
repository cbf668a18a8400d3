"""Mixings against their equations; where the network mixes."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pipeline.files import InputError
from pipeline.longtail import class_counts
from pipeline.mixing import manifold_mixup, mfw, mixup, none, remix
from pipeline.network import Mix, Network


@pytest.mark.parametrize("scale", ["geometric", "arithmetic"])
def test_weakening_is_eq_12(scale):
    counts = [60, 25, 9, 3]  # near each other: nothing of the sigmoid is saturated
    mu = math.exp(sum(math.log(n) for n in counts) / 4)
    if scale == "geometric":
        gamma = math.exp(math.sqrt(sum((math.log(n) - math.log(mu)) ** 2 for n in counts) / 4))
    else:
        gamma = math.sqrt(sum((n - sum(counts) / 4) ** 2 for n in counts) / 4)
    for beta in (0.5, 2.0):
        expected = [0.5 / (1 + math.exp(-(n - mu) / (beta * gamma))) for n in counts]
        actual = mfw.Mixing(beta=beta, scale=scale).weakening(torch.tensor(counts, dtype=torch.float32))
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("scale", ["geometric", "arithmetic"])
@pytest.mark.parametrize("n", [1, 5000, 12345])
def test_classes_of_one_size_are_weakened_alike(scale, n):
    np.testing.assert_allclose(mfw.Mixing(scale=scale, beta=0.01).weakening(torch.full((100,), float(n))), 0.25, atol=1e-6)


@pytest.mark.parametrize(("kind", "beta"), [("exponential", 2.0), ("step", 0.01)])
@pytest.mark.parametrize("ratio", [100, 200])
def test_major_classes_are_weakened_by_half_and_minor_ones_not(kind, beta, ratio):
    """Section 3.4: s(N_1) ≈ 0.5 and s(N_10) ≈ 0."""
    weakening = mfw.Mixing(beta=beta).weakening(torch.tensor(class_counts(kind, 5000, ratio, 10), dtype=torch.float32))
    assert weakening[0] > 0.49
    assert weakening[-1] < 0.01
    assert (weakening.diff() <= 0).all()


def test_hard_weights_are_those_of_section_4():
    assert mfw.Mixing(scale="hard").weakening(torch.tensor([5000.0, 5000.0, 50.0, 50.0])).tolist() == [0.5, 0.5, 0, 0]
    counts = torch.tensor(class_counts("exponential", 5000, 100, 10), dtype=torch.float32)
    soft = mfw.Mixing(beta=1e-9).weakening(counts)
    torch.testing.assert_close(mfw.Mixing(scale="hard").weakening(counts), soft)  # the limit of a small β


def test_hard_weights_need_a_major_class():
    with pytest.raises(InputError, match=r"mixing.mfw.scale: hard: all classes have the same number of images, so none is major"):
        mfw.Mixing(scale="hard").weakening(torch.full((4,), 30.0))


def test_mfw_keeps_labels_and_draws_below_the_class_weight():
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


LABELS = torch.arange(3).repeat(20)
COUNTS = torch.tensor([300.0, 150.0, 100.0])


@pytest.mark.parametrize("mixing", [mixup.Mixing(alpha=0.5), manifold_mixup.Mixing(alpha=0.5), remix.Mixing(alpha=0.5)])
def test_the_mixups_draw_one_share_for_a_batch_and_partners_anew(mixing):
    draw, generator = mixing.build(COUNTS), np.random.default_rng(0)
    mixes = [draw(LABELS, generator) for _ in range(500)]
    for mix in mixes:
        assert mix.weight.min() == mix.weight.max()
        assert sorted(mix.partner.tolist()) == list(range(60))
    shares = torch.tensor([mix.weight[0] for mix in mixes])
    assert abs(shares.mean() - 0.5) < 0.06
    assert abs(shares.var() - 1 / (4 * (2 * 0.5 + 1))) < 0.02  # variance of Beta(α, α)
    assert not torch.equal(mixes[0].partner, mixes[1].partner)


def test_mixup_mixes_images_and_labels_alike():
    mix = mixup.Mixing().build(COUNTS)(LABELS, np.random.default_rng(0))
    assert mix.after == 0
    assert torch.equal(mix.label_weight, mix.weight)


def test_manifold_mixup_draws_its_place_evenly():
    draw, generator = manifold_mixup.Mixing(after=[0, 3, 4]).build(COUNTS), np.random.default_rng(0)
    mixes = [draw(LABELS, generator) for _ in range(900)]
    places, often = np.unique([mix.after for mix in mixes], return_counts=True)
    assert places.tolist() == [0, 3, 4]
    assert (np.abs(often - 300) < 70).all()
    assert all(torch.equal(mix.label_weight, mix.weight) for mix in mixes)


@pytest.mark.parametrize(
    ("own", "partner", "share", "label"),
    [(300, 100, 0.3, 0), (100, 300, 0.3, 0.3), (150, 100, 0.3, 0.3), (300, 100, 0.7, 0.7), (100, 300, 0.7, 1), (150, 100, 0.7, 0.7)],
)
def test_remix_moves_labels_of_unequal_pairs_only(own, partner, share, label):
    actual = remix.Mixing().label_share(torch.tensor([float(own)]), torch.tensor([float(partner)]), share)
    assert actual.item() == pytest.approx(label)


def test_remix_needs_classes_of_unequal_size_to_lean():
    with pytest.raises(ValidationError, match="greater than 1"):
        remix.Mixing(kappa=1.0)


def test_remix_is_its_equation_pair_by_pair():
    mix = remix.Mixing(kappa=2.0, tau=0.6).build(COUNTS)(LABELS, np.random.default_rng(3))
    share = 1 - mix.weight[0].item()
    for i, j in enumerate(mix.partner.tolist()):
        ratio = COUNTS[LABELS[i]].item() / COUNTS[LABELS[j]].item()
        expected = 0 if ratio >= 2 and share < 0.6 else 1 if ratio <= 1 / 2 and 1 - share < 0.6 else share
        assert 1 - mix.label_weight[i].item() == pytest.approx(expected, abs=1e-6)


class Affine(nn.Module):
    """a x² + b: a group whose effect a test can compute."""

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
