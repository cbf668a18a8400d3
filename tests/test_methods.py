"""README's table of named methods: each row's flags against that method written out by hand in float64, loss and gradient.

The hand-written side is NumPy: a small network whose every number can be followed, each paper's equation, gradients by central differences.
"""

import csv
import re

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from torch import nn

from pipeline import params, prepare, recipe, train
from pipeline.network import Network
from pipeline.objective import batch_loss
from tests.conftest import ROOT
from tests.test_cifar import REAL, needs_cifar

README = (ROOT / "README.md").read_text()
COUNTS = np.array([60.0, 25.0, 9.0, 3.0])  # near each other, so that MFW's sigmoid is not saturated
LABELS = np.array([0, 0, 1, 0, 2, 3, 1, 0])
PRIOR = COUNTS / COUNTS.sum()
KEYS = ("loss", "mix", "reweight")


def table():
    """The cells of each row."""
    text = re.search(r"<!-- methods -->\n.*\n\|---.*\n((?:\|.*\n)+)", README)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def rows():
    """Name and flags of each row."""
    return {name.split(" (")[0]: dict(zip(KEYS, (flag.strip("`") for flag in flags[:3]), strict=True)) for name, *flags in table()}


def method(flags):
    tree = params.read(ROOT / "params.yaml")
    tree["train"] |= flags
    return recipe.read(tree)


# By hand, one sample at a time: a loss is a function of logits (c,), label and progress.


def cross_entropy(z, k, t=0.0):
    return np.log(np.exp(z).sum()) - z[k]


def focal(z, k, t):
    p = np.exp(z[k]) / np.exp(z).sum()
    return -(1 - p) * np.log(p)


def ldam(z, k, t):
    """z are cosines."""
    lowered = z - 0.5 * (COUNTS.min() / COUNTS[k]) ** 0.25 * (np.arange(4) == k)
    return cross_entropy(30 * lowered, k)


def logit_adjust(z, k, t):
    return cross_entropy(z + np.log(PRIOR), k)


def balanced_softmax(z, k, t):
    return -np.log(COUNTS[k] * np.exp(z[k]) / (COUNTS * np.exp(z)).sum())


def cdt(z, k, t):
    return cross_entropy(z / (COUNTS.max() / COUNTS) ** 0.2, k)


def graloss(z, k, t):
    return cross_entropy(z + (2**t - 1) * np.log(PRIOR), k)


# A mixing draws (place, partner, share of the partner in the feature, share of the partner's label), the last two (b,).


def no_mixing(generator):
    return 0, np.arange(8), np.zeros(8), np.zeros(8)


def mfw(generator):
    partner, share = generator.permutation(8), generator.beta(2.0, 2.0, 8)
    mu, gamma = np.exp(np.log(COUNTS).mean()), np.exp(np.log(COUNTS).std())
    weakening = 0.5 / (1 + np.exp(-(COUNTS - mu) / (2 * gamma)))
    return 2, partner, weakening[LABELS] * share, np.zeros(8)


def mixup(generator):
    partner, own = generator.permutation(8), generator.beta(1.0, 1.0)
    return 0, partner, np.full(8, 1 - own), np.full(8, 1 - own)


def manifold_mixup(generator):
    place = [0, 2, 3][generator.integers(3)]
    partner, own = generator.permutation(8), generator.beta(2.0, 2.0)
    return place, partner, np.full(8, 1 - own), np.full(8, 1 - own)


def remix(generator):
    partner, own = generator.permutation(8), generator.beta(1.0, 1.0)
    label = np.full(8, own)
    for i, j in enumerate(partner):
        ratio = COUNTS[LABELS[i]] / COUNTS[LABELS[j]]
        if ratio >= 3 and own < 0.5:
            label[i] = 0
        elif ratio <= 1 / 3 and 1 - own < 0.5:
            label[i] = 1
    return 0, partner, np.full(8, 1 - own), 1 - label


# A re-weighting gives the weight of each class (c,) at a progress.


def equal(t):
    return np.ones(4)


def class_balanced(t):
    raw = (1 - 0.9999) / (1 - 0.9999**COUNTS)
    return 4 * raw / raw.sum()


def deferred(t):
    return class_balanced(t) if t >= 0.8 else np.ones(4)


BY_HAND = {
    "ERM": (cross_entropy, no_mixing, equal),
    "Focal": (focal, no_mixing, equal),
    "CB": (cross_entropy, no_mixing, class_balanced),
    "LDAM": (ldam, no_mixing, equal),
    "LDAM-DRW": (ldam, no_mixing, deferred),
    "Logit Adjust": (logit_adjust, no_mixing, equal),
    "Balanced Softmax": (balanced_softmax, no_mixing, equal),
    "CDT": (cdt, no_mixing, equal),
    "GraLoss": (graloss, no_mixing, equal),
    "MFW": (cross_entropy, mfw, equal),
    "MFW w/ DRW": (cross_entropy, mfw, deferred),
    "mixup": (cross_entropy, mixup, equal),
    "manifold mixup": (cross_entropy, manifold_mixup, equal),
    "Remix": (cross_entropy, remix, equal),
    "Remix-DRW": (cross_entropy, remix, deferred),
    "mixup-DRW": (cross_entropy, mixup, deferred),
}


def by_hand(name, x, weight, bias, t, seed):
    """The batch's loss: images x (8, 3), through four groups a_g x + x², to 4 logits."""
    loss, mixing, reweighting = BY_HAND[name]
    place, partner, share, label_share = mixing(np.random.default_rng(seed))
    h = x
    for group in range(5):
        if group == place:
            h = np.stack([(1 - share[i]) * h[i] + share[i] * h[partner[i]] for i in range(8)])
        if group < 4:
            h = (group + 1) * 0.3 * h + h**2
    if loss is ldam:
        z = (h / np.linalg.norm(h, axis=1, keepdims=True)) @ (weight / np.linalg.norm(weight, axis=1, keepdims=True)).T
    else:
        z = h @ weight.T + bias
    total = norm = 0.0
    for i in range(8):
        for k, part in ((LABELS[i], 1 - label_share[i]), (LABELS[partner[i]], label_share[i])):
            w = part * reweighting(t)[k]
            total, norm = total + w * loss(z[i], k, t), norm + w
    return total / norm


class Group(nn.Module):
    """a x + x²."""

    def __init__(self, a):
        super().__init__()
        self.a = a

    def forward(self, x):
        return self.a * x + x**2


def slope(f, array):
    """The gradient of f at an array, by central differences."""
    gradient = np.zeros_like(array)
    for i in np.ndindex(array.shape):
        step = np.zeros_like(array)
        step[i] = 1e-6
        gradient[i] = (f(array + step) - f(array - step)) / 2e-6
    return gradient


def test_the_table_has_every_named_method():
    assert set(rows()) == set(BY_HAND)


def test_what_is_to_set_as_well_can_be_set():
    """The last column's `section.name.key: value` are keys of the row's own methods, and the values are allowed."""
    found = 0
    for name, *flags, more in table():
        chosen = dict(zip(KEYS, (flag.strip("`") for flag in flags), strict=True))
        for section, which, key, value in re.findall(r"`(\w+)\.(\w+)\.(\w+)(?:: ([\d.]+))?`", more):
            tree = params.read(ROOT / "params.yaml")
            assert which == chosen[{"losses": "loss", "mixing": "mix"}[section]], name
            assert key in tree[section][which]
            tree[section][which][key] = float(value or tree[section][which][key])
            tree["train"] |= chosen
            recipe.read(tree)
            found += 1
    assert found == 7


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("progress", [0.5, 0.9])
@pytest.mark.parametrize("name", BY_HAND)
def test_a_row_is_its_method(name, progress, seed):
    chosen = method(rows()[name])
    rng = np.random.default_rng(seed)
    x, weight, bias = rng.normal(0, 0.5, (8, 3)), rng.normal(size=(4, 3)), rng.normal(size=4)

    network = Network([Group((g + 1) * 0.3) for g in range(4)], 3, 4, getattr(chosen.loss, "cosine_scale", None)).double()
    with torch.no_grad():
        network.classifier.weight.copy_(torch.tensor(weight))
        if name not in ("LDAM", "LDAM-DRW"):
            network.classifier.bias.copy_(torch.tensor(bias))
    counts, labels, images = torch.tensor(COUNTS), torch.tensor(LABELS), torch.tensor(x)[:, :, None, None].requires_grad_()
    mix = chosen.mixing.build(counts)(labels, np.random.default_rng(seed))
    logits = network(images, mix)
    loss = batch_loss(logits, labels, mix, chosen.loss.build(counts), chosen.reweighting.build(counts)(progress), progress)
    loss.backward()

    assert loss.item() == pytest.approx(by_hand(name, x, weight, bias, progress, seed), rel=1e-6)
    by_images = slope(lambda a: by_hand(name, a, weight, bias, progress, seed), x)
    by_weight = slope(lambda a: by_hand(name, x, a, bias, progress, seed), weight)
    np.testing.assert_allclose(images.grad[:, :, 0, 0], by_images, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(network.classifier.weight.grad, by_weight, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def cifar_100_lt(tmp_path_factory):
    """A workspace with CIFAR-100-LT at ratio 100 in images.h5, and its parameters: one epoch of the 8-layer network."""
    workspace = tmp_path_factory.mktemp("cifar")
    tree = params.read(ROOT / "params.yaml")
    tree["data"] |= {"name": "cifar100", "root": REAL, "ratio": 100, "val": "unused", "val_per_class": 20}
    tree["train"] |= {"augment": "plain", "epochs": 1, "warmup_epochs": 0, "batch": 64}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        write(tree)
        prepare.main()
    return workspace, tree


def write(tree):
    with open("params.yaml", "w") as file:
        YAML().dump(tree, file)


@needs_cifar
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ERM", "LDAM-DRW", "MFW w/ DRW", "Remix-DRW"])  # what the others differ in is judged by hand above
def test_a_row_trains_an_epoch_of_cifar_100_lt_through_its_flags(cifar_100_lt, monkeypatch, name):
    workspace, tree = cifar_100_lt
    monkeypatch.chdir(workspace)
    write(tree | {"train": tree["train"] | rows()[name]})
    train.main()
    with train.CURVE.open() as file:
        (row,) = csv.DictReader(file)
    assert np.isfinite(float(row["loss"]))
    assert float(row["val_accuracy"]) > 1.5  # chance is 1
    with train.CLASSES.open() as file:
        ratios = [float(row["classification_ratio"]) * int(row["train_images"]) for row in csv.DictReader(file)]
    assert sum(ratios) == pytest.approx(10_847, rel=1e-4)  # every image is classified into some class
