"""From the command to the end of the first training step on CIFAR-100-LT: parameters, images and their hash, network, step.

Beside it what no program can do without: `import torch` and a step of the convolutions of ResNet-32 on one batch, itself a second on
processors without bf16.
"""

import os
import subprocess
import sys
from functools import partial

import pytest

from tests.benchmarks.timing import BF16, report, seconds
from tests.conftest import ROOT, edit, stage
from tests.test_cifar import REAL, needs_cifar, use_cifar

UNTIL_THE_FIRST_STEP = """
import runpy
from pipeline import optimiser
step = optimiser.SGD.step
def once(*arguments):
    step(*arguments)
    raise SystemExit
optimiser.SGD.step = once
runpy.run_module("pipeline.train", run_name="__main__", alter_sys=True)
"""

BARE_STEP = f"""
import torch
from torch import nn
widths = [3] + [16] * 11 + [32] * 10 + [64] * 10
layers = []
for i, o in zip(widths, widths[1:]):
    layers += [nn.Conv2d(i, o, 3, 1 if i in (3, o) else 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(True)]
network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(memory_format=torch.channels_last)
classifier = nn.Linear(64, 100)
x = torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
with torch.autocast("cpu", torch.bfloat16, enabled={BF16}):
    features = network(x)
nn.functional.cross_entropy(classifier(features.float()), torch.randint(0, 100, (128,))).backward()
"""


def command(code):
    """Run a Python process from its start to its end, which keeps what it compiles for the next one, as a user's does."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", code], check=True, env={**environment, "PYTHONPATH": str(ROOT)})


@needs_cifar
@pytest.mark.slow
def test_the_first_step_comes_soon_after_importing_torch(workspace):
    use_cifar(workspace, "cifar100", "exponential", 100, "unused", REAL)
    for old, new in {"depth: 8": "depth: 32", "batch: 32\n": "batch: 128\n", "augment: shift": "augment: plain"}.items():
        edit(workspace / "params.yaml", old, new)
    stage("prepare")
    codes = UNTIL_THE_FIRST_STEP, BARE_STEP, "import torch"
    rounds = [[seconds(partial(command, code)) for code in codes] for _ in range(5)]  # by turns, so that slow minutes are all three's
    first, bare, torch = map(min, zip(*rounds, strict=True))
    report("first training step on CIFAR", f"{first:.1f} s", f"`import torch` alone: {torch:.1f} s", f"{first / torch:.2f}", "–")
    report("the same", f"{first:.1f} s", f"`import torch` and a bare step: {bare:.1f} s", f"{first / bare:.2f}", "≤ 1.4")
    assert first / bare <= 1.4
