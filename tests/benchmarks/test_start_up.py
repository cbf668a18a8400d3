"""From the command to the end of the first training step on CIFAR-100-LT: parameters, images and their hash, network, step."""

import os
import subprocess
import sys
import time

import pytest

from tests.benchmarks.timing import report
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


def command(code):
    """Seconds that a Python process takes from its start to its end; the best of three."""
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        durations.append(time.perf_counter() - start)
    return min(durations)


@needs_cifar
@pytest.mark.slow
def test_the_first_step_comes_soon_after_importing_torch(workspace):
    use_cifar(workspace, "cifar100", "exponential", 100, "unused", REAL)
    for old, new in {"depth: 8": "depth: 32", "batch: 32\n": "batch: 128\n", "augment: shift": "augment: plain"}.items():
        edit(workspace / "params.yaml", old, new)
    stage("prepare")
    first, torch = command(UNTIL_THE_FIRST_STEP), command("import torch")
    report("first training step on CIFAR", f"{first:.1f} s", f"`import torch` alone: {torch:.1f} s", f"{first / torch:.2f}", "≤ 1.5")
    assert first / torch <= 1.5
