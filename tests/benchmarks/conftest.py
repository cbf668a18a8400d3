"""Data of CIFAR-100-LT's size for all benchmarks, and the table of what they found at the end of a run."""

import numpy as np
import pytest
import torch

from pipeline.images import Images, ImageSet
from tests.benchmarks.timing import ROWS


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def data():
    """Images of CIFAR-100-LT's size and number; their content costs nothing."""
    counts = np.array([int(500 * 0.01 ** (k / 99)) for k in range(100)])
    labels = np.repeat(np.arange(100), counts)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    split = Images(pixels, labels)
    return ImageSet(split, None, split, counts, [str(k) for k in range(100)], np.full(3, 0.5), np.full(3, 0.25), 32)


def pytest_terminal_summary(terminalreporter):
    if ROWS:
        terminalreporter.write_line("\n".join(["", "| what | ours | beside | ratio | bound |", "|---|---|---|---|---|", *ROWS]))
