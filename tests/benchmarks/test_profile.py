"""Where a training step and an extraction spend their time, by torch's profiler: nearly all of it in the network's own operations."""

import dataclasses

import numpy as np
import pytest
from torch.profiler import ProfilerActivity, profile

from pipeline import extract, stage_one
from pipeline.images import Images
from tests.benchmarks.test_training_speed import ours
from tests.benchmarks.timing import PRECISION, ROWS, chosen, seconds

PARTS = {
    "convolutions, backward": ("aten::convolution_backward",),
    "convolutions": ("aten::mkldnn_convolution", "aten::convolution"),
    "BatchNorm": ("aten::native_batch_norm",),
    "BatchNorm, backward": ("aten::native_batch_norm_backward",),
    "ReLU": ("aten::clamp_min_", "aten::clamp_min"),
    "ReLU, backward": ("aten::threshold_backward",),
    "sums (residual, gradients, optimiser)": ("aten::add_", "aten::add"),
}


def shares(work):
    """The share of each part in the wall-clock time of a call of `work`, a fraction, largest first; the rest, Python and files among it,
    last.
    """
    work()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        total = 1e6 * seconds(work)  # in microseconds, as the profiler counts
    times = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    found = {part: sum(times.get(key, 0) for key in keys) / total for part, keys in PARTS.items()}
    found = {part: share for part, share in sorted(found.items(), key=lambda item: -item[1]) if share > 0}
    return found | {"everything else": 1 - sum(found.values())}


def note(what, found):
    text = ", ".join(f"{part} {100 * share:.1f} %" for part, share in found.items())
    ROWS.append(f"| profile of {what} | | | {text} | everything else ≤ 20 % |")


@pytest.mark.slow
def test_a_training_step_is_spent_in_the_network(data):
    found = shares(ours(data, augment="plain"))
    note(f"`train`, {PRECISION}", found)
    assert found["everything else"] <= 0.20


@pytest.mark.slow
def test_an_extraction_is_spent_in_the_network(data, workspace):
    network = stage_one.new_network(chosen(), data, 0)
    pixels = np.memmap(workspace / "pixels", "u1", "w+", shape=(1024, 32, 32, 3))  # mapped from a file, as in images.h5
    pixels[:] = data.train.images[:1024]
    some = Images(pixels, data.train.labels[:1024])
    data = dataclasses.replace(data, train=some, test=some)
    found = shares(lambda: extract.write(extract.FILE, network, data, extract.Extract(batch=64)))
    note("`extract`, float32", found)
    assert found["everything else"] <= 0.20
