"""What benchmarks share: the recipe, its parts, paired timing, and the rows of the table that ends a run."""

import os
import time

import numpy as np
import pytest
import torch

from pipeline import augment, inference, params, recipe, stage_one
from pipeline.feed import Feed
from pipeline.objective import Objective
from tests.conftest import ROOT

CPU = torch.device("cpu")
BF16 = inference.bf16_pays(32, CPU)  # whether `precision: auto` is bf16 on this processor
PRECISION = "bf16" if BF16 else "float32"
needs_bf16 = pytest.mark.skipif(not BF16, reason="this processor has no products in bf16")
ROWS = []


def chosen(**changes):
    """The recipe of params.yaml with ResNet-32 at batch 128, as in the papers; its precision is that of `BF16`."""
    tree = params.read(ROOT / "params.yaml")
    tree["train"] |= {"backbone": {"family": "cifar_resnet", "depth": 32}, "batch": 128, "augment": "none", "precision": "auto", **changes}
    return recipe.read(tree)


def parts(data, method):
    """Objective and feed of a training, as `stage_one.fit` builds them."""
    network = stage_one.new_network(method, data, 0)
    objective = Objective(
        network, data.class_counts, method.loss, method.mixing, method.reweighting, bf16=BF16, compiled=method.train.compile
    )
    return objective, Feed(data, getattr(augment, method.train.augment), CPU)


def seconds(work):
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def wall_and_processors(work):
    """Seconds of a call and those that processors worked in it (2,), here and in processes that ended within it.

    Work beside it hardly changes the second.
    """
    start = np.array(os.times())
    work()
    spent = np.array(os.times()) - start
    return np.array([spent[4], spent[:4].sum()])


def paired(ours, theirs, rounds, bound):
    """How long each takes, medians over rounds in which one follows the other, by turns first, and the median of theirs / ours within a
    round; of up to three attempts the first that reaches the bound, else the last. The first round of each warms up.
    """
    for _ in range(3):
        durations = []
        for turn in range(rounds + 1):
            first, second = (ours, theirs) if turn % 2 else (theirs, ours)
            pair = seconds(first), seconds(second)
            durations.append(pair if turn % 2 else pair[::-1])
        durations = np.array(durations[1:])
        ratio = float(np.median(durations[:, 1] / durations[:, 0]))
        if ratio >= bound:
            break
    return (*np.median(durations, axis=0), ratio)


def report(what, value, beside, ratio, bound):
    """Keep a row of the table."""
    ROWS.append(f"| {what} | {value} | {beside} | {ratio} | {bound} |")


def long_tail(samples, classes, largest, smallest):
    """Samples of each class (c,), from `largest` to `smallest`, that sum to `samples`: log n falls with a power of the rank."""
    from scipy.optimize import brentq

    rank = np.arange(classes) / (classes - 1)
    counts = lambda power: (largest * (smallest / largest) ** rank**power).astype(int)  # noqa: E731
    counts = counts(brentq(lambda power: counts(power).sum() - samples, 0.1, 2, rtol=1e-6))
    counts[1] += samples - counts.sum()
    return counts
