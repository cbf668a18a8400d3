"""Stage two at ImageNet-LT's size (115,846 x 2048, 1,000 classes, synthetic) beside the bare matrix products that it is made of."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.heads import crt, logit_adjust, lws, ncm, tau
from tests.benchmarks.timing import long_tail, needs_bf16, paired, report
from tests.conftest import ROOT

N, D, C, BATCH, TESTED = 115_846, 2048, 1000, 512, 50_000


@pytest.fixture(scope="module")
def imagenet():
    """Features of as many classes, 1,280 to 5 samples each, around random class means."""
    counts = long_tail(N, C, 1280, 5)
    rng = np.random.default_rng(0)
    means = rng.random((C, D), np.float32)
    labels = np.repeat(np.arange(C), counts)
    features = means[labels]
    features += rng.random((len(labels), D), np.float32)
    stage_one = Classifier.linear(rng.normal(size=(C, D)) / 50, rng.normal(size=C) / 50)
    return Features(features, labels, C, stage_one)


def products(features, dtype, backward):
    """A function that runs an epoch's bare products, features read in their order: forward, and where wanted the gradient of the weight."""
    batches, w, g = torch.from_numpy(features).to(dtype).split(BATCH), torch.rand(C, D).to(dtype), torch.rand(BATCH, C).to(dtype)
    logits, gradient = torch.empty(BATCH, C, dtype=dtype), torch.empty(C, D, dtype=dtype)

    def epoch():
        for x in batches:
            torch.mm(x, w.T, out=logits[: len(x)])
            if backward:
                torch.mm(g[: len(x)].T, x, out=gradient)

    return epoch


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backward"), [("crt", True), ("lws", False)])
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_an_epoch_of_sgd_takes_little_more_than_its_matrix_products(imagenet, name, backward, precision):
    """LWS fixes the weight, so that its only product is the forward one; that is what it is held against.

    Beside the products an epoch gathers drawn rows, and reads and writes logits, gradients and momentum: bandwidth of memory, not of
    arithmetic. The bound leaves room for processors that multiply twice as fast out of the same memory.
    """
    head = {"crt": crt, "lws": lws}[name].Head(epochs=1, batch=BATCH, lr=0.01, precision=precision)
    dtype, bound = (torch.float32, 1.6) if precision == "fp32" else (torch.bfloat16, np.inf)
    mine, theirs, ratio = paired(lambda: head.fit(imagenet, None, 0), products(imagenet.features, dtype, backward), 3, 1 / bound)
    what, shown = "forward and backward" if backward else "forward", f"≤ {bound}" if np.isfinite(bound) else "–"
    report(f"`{name}`, an epoch, {precision}", f"{mine:.2f} s", f"its bare products, {what}: {theirs:.2f} s", f"{1 / ratio:.2f}", shown)
    assert 1 / ratio <= bound


@pytest.mark.slow
@pytest.mark.parametrize(("name", "head"), [("tau", tau.Head(select="train")), ("logit_adjust", logit_adjust.Head(select="train"))])
def test_a_search_over_21_values_costs_little_more_than_one_product(imagenet, name, head):
    weight = imagenet.classifier.weight
    mine, theirs, ratio = paired(lambda: head.fit(imagenet, None, 0), lambda: imagenet.features @ weight.T, 3, 1 / 3)
    report(f"`{name}`, 21 values searched", f"{mine:.2f} s", f"one product, features x weights: {theirs:.2f} s", f"{1 / ratio:.2f}", "≤ 3")
    assert 1 / ratio <= 3


@pytest.mark.slow
def test_ncm_is_faster_than_scikit_learn(imagenet):
    asked, answers = imagenet.features[:TESTED], {}

    def ours():
        answers["ours"] = ncm.Head(transform="raw").fit(imagenet, None, 0).predict(asked)

    def theirs():
        answers["theirs"] = NearestCentroid().fit(imagenet.features, imagenet.labels).predict(asked)

    mine, others, ratio = paired(ours, theirs, 3, 3)
    assert np.array_equal(answers["ours"], answers["theirs"])
    what = f"`ncm`, fit and {TESTED:,} predictions"
    report(what, f"{mine:.2f} s", f"scikit-learn's NearestCentroid: {others:.2f} s", f"{ratio:.1f}", "≥ 3")
    assert ratio >= 3


OWN = "ncm.Head(transform='raw').fit(Features(x, y, C), None, 0).predict(x[:TESTED])"
SCIKIT = "NearestCentroid().fit(x, y).predict(x[:TESTED])"
MEMORY = f"""
from pathlib import Path
import numpy as np
from sklearn.neighbors import NearestCentroid
import faiss
from pipeline.features import Features
from pipeline.heads import ncm
N, D, C, TESTED = {N}, {D}, {C}, {TESTED}
x, y = np.random.default_rng(0).random((N, D), np.float32), np.sort(np.arange(N) % C)
peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])  # in KiB, of this process alone
before = peak()
WORK
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory as Linux tells it")
def test_ncm_needs_less_memory_than_scikit_learn():
    """What each adds to the peak of a process that holds the features."""
    added = []
    for work in (OWN, SCIKIT):
        command = [sys.executable, "-c", MEMORY.replace("WORK", work)]
        added.append(int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout) / 1024)
    report(
        "`ncm`, memory beside the features", f"{added[0]:,.0f} MB", f"scikit-learn: {added[1]:,.0f} MB", f"{added[0] / added[1]:.2f}", "< 1"
    )
    assert added[0] < added[1]
