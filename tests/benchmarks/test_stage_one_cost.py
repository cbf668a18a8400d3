"""What stage one spends beside training itself, as shares of one run on this machine: ResNet-32, batch 128, 32-pixel images."""

import time

import numpy as np
import pytest
import torch

from pipeline import augment, inference, params, recipe, stage_one
from pipeline.images import Images, ImageSet
from pipeline.measure import measure, watched
from pipeline.objective import Objective
from tests.conftest import ROOT

STEPS = 12


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(stage_one, "device", lambda: torch.device("cpu"))


@pytest.fixture(scope="module")
def data():
    """Images of CIFAR-100-LT's size and number; their content costs nothing."""
    counts = np.array([int(500 * 0.01 ** (k / 99)) for k in range(100)])
    labels = np.repeat(np.arange(100), counts)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    split = Images(pixels, labels)
    return ImageSet(split, None, split, counts, [str(k) for k in range(100)], np.full(3, 0.5), np.full(3, 0.25), 32)


def objective(data, name):
    tree = params.read(ROOT / "params.yaml")
    tree["train"] |= {"backbone": {"family": "cifar_resnet", "depth": 32}, "augment": name}
    method = recipe.read(tree)
    network = stage_one.new_network(method, data, 0)
    bf16 = inference.bf16_pays(32, torch.device("cpu"))
    return Objective(network, data, method.loss, method.mixing, method.reweighting, getattr(augment, name), bf16)


def seconds(work):
    """The median of STEPS runs, after two more to warm up."""
    durations = []
    for _ in range(STEPS + 2):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return float(np.median(durations[2:]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "share"), [("plain", 0.10), ("autoaugment", 0.25)])
def test_augmentation_is_a_small_share_of_a_step(data, name, share):
    step, rows, generator = objective(data, name), np.arange(128) * 80, np.random.default_rng(0)
    step.network.train()
    pixels = torch.from_numpy(data.train.images[rows])
    whole = seconds(lambda: step(rows, 0.0, generator).backward())
    part = seconds(lambda: step.augmentation(pixels, 32, generator))
    print(f"{name}: {1000 * part:.1f} ms of {1000 * whole:.1f} ms a step, {100 * part / whole:.1f} %")
    assert part / whole <= share


@pytest.mark.slow
def test_watching_is_a_small_share_of_an_epoch(data):
    """2,000 images watched after every epoch of 10,847."""
    step, generator = objective(data, "plain"), np.random.default_rng(0)
    rows = watched(data.train.labels, 2000, 0)

    def one_step():
        step.network.train()
        step(np.arange(128) * 80, 0.0, generator).backward()

    epoch = seconds(one_step) * len(data.train.labels) / 128
    start = time.perf_counter()
    for turn in range(5):  # gradients once in five epochs
        measure(step.network, data, rows, lambda z, y: step.loss_of(z, y, 0.0), 128, step.bf16, None if turn else 2)
    watching = (time.perf_counter() - start) / 5
    print(f"watching {len(rows)} images: {watching:.2f} s of {epoch + watching:.2f} s, {100 * watching / (epoch + watching):.1f} %")
    assert watching / (epoch + watching) <= 0.10
