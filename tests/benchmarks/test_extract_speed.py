"""`pipeline.extract`, reading and writing included, beside the bare forward pass at its best batch size: ResNet-32, 32-pixel images."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline import extract, params, stage_one
from pipeline.images import Images
from tests.benchmarks.timing import chosen, paired, report, seconds
from tests.conftest import ROOT

IMAGES = 2048
BATCH = params.read(ROOT / "params.yaml")["extract"]["batch"]


def forward(network, batch):
    """A function that passes IMAGES synthetic images through the frozen network."""
    x = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def passes():
        with torch.inference_mode():
            for _ in range(IMAGES // batch):
                network.features(x)

    return passes


@pytest.mark.slow
def test_extraction_runs_at_the_rate_of_the_bare_forward_pass(data, workspace):
    network = stage_one.new_network(chosen(), data, 0).eval()
    times = {batch: min(seconds(forward(network, batch)) for _ in range(4)) for batch in (32, 64, 128, 256, 512)}
    best = min(times, key=times.get)
    pixels = np.memmap(workspace / "pixels", "u1", "w+", shape=(IMAGES // 2, 32, 32, 3))  # mapped from a file, as in images.h5
    pixels[:] = data.train.images[: IMAGES // 2]
    half = Images(pixels, data.train.labels[: IMAGES // 2])
    some = dataclasses.replace(data, train=half, test=half)
    mine, theirs, ratio = paired(
        lambda: extract.write(extract.FILE, network, some, extract.Extract(batch=BATCH)), forward(network, best), 8, 0.90
    )
    rates = [f"{IMAGES / duration:,.0f} images/s" for duration in (mine, theirs)]
    report("`extract`, writing included", rates[0], f"bare forward pass, batch {best}: {rates[1]}", f"{ratio:.3f}", "≥ 0.90")
    assert ratio >= 0.90
