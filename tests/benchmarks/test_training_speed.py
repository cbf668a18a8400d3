"""`pipeline.train` beside the bare step, beside a loop like that of the reference code and beside its compiled self: ResNet-32, batch 128,
no augmentation, 32-pixel images.

Steps are `stage_one.run_epoch`: gathering, normalising, forward, backward, optimiser, the check of every loss. Epochs are `stage_one.fit`,
which watches training images and writes a checkpoint after each.
"""

import dataclasses
import shutil
import time

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tqdm import tqdm

from pipeline import images, stage_one
from pipeline.checkpoint import Checkpoint, identity
from pipeline.optimiser import SGD
from tests.benchmarks.timing import BF16, PRECISION, chosen, needs_bf16, paired, parts, report, seconds

STEPS, BATCH = 6, 128


def ours(data, **changes):
    """A function that runs STEPS steps as `pipeline.train` does."""
    method = chosen(**changes)
    objective, feed = parts(data, method)
    sgd, rows = SGD(objective.network.parameters(), 2e-4), np.random.default_rng(0).permutation(len(data.train.labels))
    batches = stage_one.batches(rows[: STEPS * BATCH], BATCH)
    return lambda: stage_one.run_epoch(9, batches, method.train, objective, sgd, feed, 0, tqdm(disable=True))


def bare(data, **optimiser):
    """A function that runs STEPS steps on one synthetic batch, in the precision of `train` and channels_last: nothing but the network and
    torch's SGD.
    """
    network = stage_one.new_network(chosen(), data, 0).train()
    sgd = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=2e-4, **optimiser)
    x = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 100, (BATCH,))

    def steps():
        for _ in range(STEPS):
            with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
                features = network.features(x)
            loss = torch.nn.functional.cross_entropy(network.classifier(features.float()), y)
            sgd.zero_grad(set_to_none=True)
            loss.backward()
            sgd.step()

    return steps


class Paused(Checkpoint):
    """A checkpoint behind which other work runs, so that the two take turns; keeps how long an epoch and the work took, each time."""

    def __init__(self, identity, work):
        super().__init__(identity)
        self.work, self.durations, self.start = work, [], time.perf_counter()

    def save(self, state):
        super().save(state)
        mine = time.perf_counter() - self.start
        self.durations.append((mine, seconds(self.work)))
        self.start = time.perf_counter()


@pytest.mark.slow
def test_whole_epochs_run_near_the_rate_of_the_bare_step(data, workspace):
    """Five epochs, as many as lie between two rows by class, an epoch of bare steps behind each; three attempts at most.

    A fifth of the images, and a fifth of those that are watched: epochs as they are, in a fifth of their time.
    """
    images.FILE.parent.mkdir()
    images.FILE.write_bytes(b"stands for the images")
    method = chosen(epochs=5, warmup_epochs=1, watch={"images": 400, "every": 5, "after": 2})
    labels = data.train.labels[::5]
    counts = np.bincount(labels, minlength=data.classes)
    data = dataclasses.replace(data, train=images.Images(data.train.images[::5], labels), class_counts=counts)
    steps, repeats = bare(data, fused=True), len(labels) // (STEPS * BATCH)
    steps()
    for _ in range(3):
        checkpoint = Paused(identity(method, 0, images.FILE), lambda: [steps() for _ in range(repeats)])
        stage_one.fit(method, data, 0, checkpoint)
        checkpoint.path.unlink()
        mine, theirs = np.sum(checkpoint.durations, axis=0)
        mine, theirs = mine * STEPS * BATCH / (5 * len(labels)), theirs / (5 * repeats)
        if theirs / mine >= 0.88:
            break
    report(
        "epochs of `train`, watching and checkpoints included", rate(mine), f"bare step: {rate(theirs)}", f"{theirs / mine:.3f}", "≥ 0.88"
    )
    assert theirs / mine >= 0.88


class Pictures(torch.utils.data.Dataset):
    """Images as torchvision's CIFAR gives them: a Pillow image each, through a transform."""

    def __init__(self, data):
        mean, std = data.mean.tolist(), data.std.tolist()
        self.images, self.labels = data.train.images, data.train.labels
        self.transform = torchvision.transforms.Compose([torchvision.transforms.ToTensor(), torchvision.transforms.Normalize(mean, std)])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return self.transform(Image.fromarray(self.images[row])), int(self.labels[row])


def reference_loop(data):
    """A function that runs STEPS steps as LDAM-DRW's `cifar_train.py` does, and most code after it: float32, NCHW, a DataLoader with
    workers, loss and top-1 and top-5 accuracy read at every step.
    """
    network = stage_one.new_network(chosen(), data, 0).to(memory_format=torch.contiguous_format).train()
    sgd = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=2e-4)
    loader = torch.utils.data.DataLoader(Pictures(data), BATCH, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True)
    waiting, totals = iter(loader), np.zeros(3)

    def steps():
        nonlocal waiting
        for _ in range(STEPS):
            x, y = next(waiting, (None, None))
            if x is None:
                waiting = iter(loader)
                x, y = next(waiting)
            output = network(x)
            loss = torch.nn.functional.cross_entropy(output, y)
            right = output.topk(5).indices == y[:, None]
            totals[:] += loss.item(), right[:, 0].sum().item(), right.sum().item()
            sgd.zero_grad()
            loss.backward()
            sgd.step()

    return steps


def rate(duration):
    return f"{STEPS * BATCH / duration:,.0f} images/s"


@pytest.mark.slow
def test_training_runs_at_the_rate_of_the_bare_step(data):
    candidates = {name: bare(data, **kind) for name, kind in (("", {}), (" foreach", {"foreach": True}), (" fused", {"fused": True}))}
    name = min(candidates, key=lambda name: min(seconds(candidates[name]) for _ in range(3)))  # whichever is fastest here
    mine, theirs, ratio = paired(ours(data), candidates[name], 10, 0.95)
    report(f"steps of `train`, {PRECISION}", rate(mine), f"bare step with torch's{name} SGD: {rate(theirs)}", f"{ratio:.3f}", "≥ 0.95")
    assert ratio >= 0.95


@pytest.mark.slow
def test_training_is_far_faster_than_the_reference_loop(data):
    """By bf16 above all; where `train` is float32 too, it should still win."""
    bound = 1.8 if BF16 else 1.0
    mine, theirs, ratio = paired(ours(data), reference_loop(data), 6, bound)
    report(f"steps of `train`, {PRECISION}", rate(mine), f"float32 DataLoader loop: {rate(theirs)}", f"{ratio:.2f}", f"≥ {bound}")
    assert ratio >= bound


@pytest.mark.slow
@needs_bf16
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiling_does_not_slow_training_in_bf16(data):
    """Nothing is promised of float32: without bf16 compiling gains nothing."""
    compiled = ours(data, compile=True)
    first = seconds(compiled)
    fused, plain, ratio = paired(compiled, ours(data), 8, 0.95)
    report(
        "steps of `train`, `compile: true`, bf16", rate(fused), f"without: {rate(plain)}", f"{ratio:.2f}", f"≥ 0.95, after {first:.0f} s"
    )
    assert ratio >= 0.95
