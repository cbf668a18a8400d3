"""What stage one spends beside training itself, as shares of one run on this machine: ResNet-32, batch 128, 32-pixel images."""

import numpy as np
import pytest
import torch

from pipeline import augment, images, stage_one
from pipeline.checkpoint import Checkpoint, identity
from pipeline.measure import measure, watched
from pipeline.optimiser import SGD
from tests.benchmarks.timing import chosen, parts, report, seconds

STEPS = 12


def median(work):
    """Seconds, the median of STEPS calls, after two more to warm up."""
    return float(np.median([seconds(work) for _ in range(STEPS + 2)][2:]))


def a_step(data, method):
    """A function that takes one training step on ready images, and the objective behind it."""
    objective, feed = parts(data, method)
    sgd, generator = SGD(objective.network.parameters(), 2e-4), np.random.default_rng(0)
    ((x, y),) = feed.epoch([np.arange(128) * 80], generator)

    def step():
        objective.network.train()
        sgd.step(objective(x, y, 0.0, generator), 0.1)

    return step, objective


@pytest.mark.slow
@pytest.mark.parametrize(("name", "share"), [("plain", 0.10), ("autoaugment", 0.25)])
def test_augmentation_is_a_small_share_of_a_step(data, name, share):
    step, _ = a_step(data, chosen())
    pixels, generator = torch.from_numpy(data.train.images[np.arange(128) * 80]), np.random.default_rng(0)
    whole, part = median(step), median(lambda: getattr(augment, name)(pixels, 32, generator))
    found = part / (whole + part)
    beside, bound = f"a step of {1000 * whole:.0f} ms", f"≤ {100 * share:.0f} %"
    report(f"augmentation `{name}`", f"{1000 * part:.1f} ms", beside, f"{100 * found:.1f} %", bound)
    assert found <= share


@pytest.mark.slow
def test_watching_is_a_small_share_of_an_epoch(data):
    """2,000 images watched after every epoch of 10,847."""
    step, objective = a_step(data, chosen())
    rows = watched(data.train.labels, 2000, 0)
    epoch = median(step) * len(data.train.labels) / 128

    def watch():
        for turn in range(5):  # gradients once in five epochs
            after = None if turn else 2
            measure(objective.network, data, rows, lambda z, y: objective.loss_of(z, y, 0.0), 128, objective.bf16, after)

    watching = seconds(watch) / 5
    share = watching / (epoch + watching)
    report(f"watching {len(rows):,} images", f"{watching:.2f} s", f"an epoch of {epoch:.1f} s", f"{100 * share:.1f} %", "≤ 10 %")
    assert share <= 0.10


@pytest.mark.slow
def test_a_checkpoint_is_a_small_share_of_an_epoch(data, workspace):
    """Written to disk and synced, with half of a long run's table by class in it."""
    method = chosen()
    step, objective = a_step(data, method)
    images.FILE.parent.mkdir()
    images.FILE.write_bytes(b"stands for the images")
    saved, sgd = Checkpoint(identity(method, 0, images.FILE)), SGD(objective.network.parameters(), 2e-4)
    curve = [{"epoch": e, "loss": 1 / 3, "lr": 0.1, "alpha": None, "train_accuracy": 100 / 3, "val_accuracy": 100 / 7} for e in range(100)]
    classes = [{"epoch": e, "class": k, "accuracy": 100 / 3, "gradient_norm": 1 / 7} for e in range(20) for k in range(100)]
    epoch = median(step) * len(data.train.labels) / 128
    part = median(lambda: saved.save(stage_one.state_of(objective.network, sgd, curve, classes)))
    share = part / (epoch + part)
    report("a checkpoint", f"{1000 * part:.0f} ms", f"an epoch of {epoch:.1f} s", f"{100 * share:.2f} %", "≤ 1 %")
    assert share <= 0.01
