"""`pipeline.train` beside the bare step, beside the loop of the reference code and beside its compiled self: ResNet-32, batch 128, no
augmentation, 32-pixel images.
"""

import shutil

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tqdm import tqdm

from pipeline import stage_one
from pipeline.optimiser import SGD
from tests.benchmarks.timing import chosen, paired, parts, report, seconds

STEPS, BATCH = 12, 128


def ours(data, **changes):
    """A function that runs STEPS steps as `pipeline.train` does."""
    method = chosen(**changes)
    objective, feed = parts(data, method)
    sgd, rows = SGD(objective.network.parameters(), 2e-4), np.random.default_rng(0).permutation(len(data.train.labels))
    batches = stage_one.batches(rows[: STEPS * BATCH], BATCH)
    return lambda: stage_one.run_epoch(9, batches, method.train, objective, sgd, feed, 0, tqdm(disable=True))


def bare(data, **optimiser):
    """A function that runs STEPS steps on one synthetic batch in bf16 and channels_last: nothing but the network and torch's SGD."""
    network = stage_one.new_network(chosen(), data, 0).train()
    sgd = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=2e-4, **optimiser)
    x = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 100, (BATCH,))

    def steps():
        for _ in range(STEPS):
            with torch.autocast("cpu", torch.bfloat16):
                features = network.features(x)
            loss = torch.nn.functional.cross_entropy(network.classifier(features.float()), y)
            sgd.zero_grad(set_to_none=True)
            loss.backward()
            sgd.step()

    return steps


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
    mine, theirs, ratio = paired(ours(data), candidates[name], 10)
    report("`train`, bf16", rate(mine), f"bare step with torch's{name} SGD: {rate(theirs)}", f"{ratio:.3f}", "≥ 0.95")
    assert ratio >= 0.95


@pytest.mark.slow
def test_training_is_far_faster_than_the_reference_loop(data):
    mine, theirs, ratio = paired(ours(data), reference_loop(data), 6)
    report("`train`, bf16", rate(mine), f"float32 DataLoader loop: {rate(theirs)}", f"{ratio:.2f}", "≥ 1.8")
    assert ratio >= 1.8


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiling_does_not_slow_training(data):
    compiled = ours(data, compile=True)
    first = seconds(compiled)
    plain, fused, ratio = paired(ours(data), compiled, 8)
    report("`train`, `compile: true`", rate(fused), f"without: {rate(plain)}", f"{1 / ratio:.2f}", f"≥ 0.95, after {first:.0f} s")
    assert 1 / ratio >= 0.95
