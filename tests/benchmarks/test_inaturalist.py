"""Every head at iNaturalist 2018's size: 437,513 x 2048 float32 features of 8,142 classes, synthetic. Seconds and peak memory of each.

It takes some 25 minutes and 4 GB of disk, so it runs only where TAILCACHE_INATURALIST is set.
"""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline import features, params
from tests.benchmarks.timing import long_tail, report, seconds
from tests.conftest import ROOT

N, D, C, VAL = 437_513, 2048, 8142, 24_426
ONE_EPOCH = {"epochs": 1, "batch": 512, "lr": 0.01}
HEADS = {
    "joint": {"kind": "joint"},
    "logit_adjust": {"kind": "logit_adjust", "select": "val"},
    "tau": {"kind": "tau", "select": "val"},
    "tau_learned": {"kind": "tau", "select": "learn"},
    "ncm": {"kind": "ncm"},
    "lda": {"kind": "lda"},
    "crt": {"kind": "crt", **ONE_EPOCH},
    "crt_bf16": {"kind": "crt", "precision": "bf16", **ONE_EPOCH},
    "lws": {"kind": "lws", **ONE_EPOCH},
    "mlp": {"kind": "mlp", **ONE_EPOCH},
    "cosine": {"kind": "cosine", **ONE_EPOCH},
    "afg": {"kind": "afg", "per_epoch": "real", **ONE_EPOCH},
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("TAILCACHE_INATURALIST"), reason="25 minutes, 4 GB: set TAILCACHE_INATURALIST=1"),
]


@pytest.fixture(scope="module")
def inaturalist(tmp_path_factory):
    """A workspace with such features."""
    workspace = tmp_path_factory.mktemp("inaturalist")
    counts = long_tail(N, C, 1000, 2)
    rng = np.random.default_rng(0)
    means = rng.random((C, D), np.float32)
    (workspace / "data").mkdir()
    with h5py.File(workspace / "data/features.h5", "w") as file:
        file.attrs.update({"schema": features.SCHEMA, "dim": D, "classes": C, "class_counts": counts})
        for name, labels in (("train", np.repeat(np.arange(C), counts)), ("val", np.repeat(np.arange(C), 3))):
            x = file.create_dataset(f"{name}/features", (len(labels), D), "f4")
            for start in range(0, len(labels), 8192):
                some = labels[start : start + 8192]
                x[start : start + len(some)] = np.maximum(means[some] + rng.normal(0, 0.3, (len(some), D)), 0)
            file[f"{name}/labels"] = labels
        file["classifier/weight"], file["classifier/bias"] = means - means.mean(0), np.zeros(C, "f4")
        file["classifier"].attrs.update({"normalise": False, "scale": 1.0})
    tree = params.read(ROOT / "params.yaml") | {"heads": HEADS}
    with (workspace / "params.yaml").open("w") as file:
        YAML().dump(tree, file)
    return workspace


@pytest.mark.parametrize("name", HEADS)
def test_every_head_fits_into_three_times_the_features(inaturalist, name):
    head = HEADS[name]
    command = [sys.executable, "-m", f"pipeline.heads.{head['kind']}", name]
    usage = []

    def fit():
        process = subprocess.Popen(command, cwd=inaturalist, env={**os.environ, "PYTHONPATH": str(ROOT)})
        _, status, spent = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        usage.append(spent.ru_maxrss * 1024)
        assert process.returncode == 0

    duration = seconds(fit)
    ratio = usage[0] / (N * D * 4)
    what = f"`{name}`" + (", one epoch" if "epochs" in head else "")
    report(
        f"{what} at iNaturalist's size",
        f"{duration:.0f} s, {usage[0] / 2**30:.1f} GiB",
        f"features: {N * D * 4 / 2**30:.1f} GiB",
        f"{ratio:.2f}",
        "≤ 3",
    )
    assert ratio <= 3
