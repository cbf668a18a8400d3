"""The backbones that the repository holds: of their cells' parameters, and as good as their rows say."""

import json
import os

import numpy as np
import pytest

from pipeline import cell, cells, ledger, stored
from tests.conftest import ROOT
from tests.stored_networks import EVERY, data_set, features_of, network_of

FILES = sorted((ROOT / stored.FOLDER).rglob("*.safetensors"))
QUICK = {file.parents[1]: file for file in FILES if file.stem == "seed-0" and file.stat().st_size < 2**22}  # the last of each recipe
JUDGED = FILES if EVERY else list(QUICK.values())  # a pass takes 15 s, of a wide one minutes


def name_of(file):
    return "/".join(file.relative_to(ROOT / stored.FOLDER).with_suffix("").parts)


@pytest.fixture(params=FILES, ids=name_of)
def found(request, monkeypatch):
    """A stored file, its cell, its seed and its row of `joint`."""
    monkeypatch.chdir(ROOT)
    name = "/".join(request.param.relative_to(ROOT / stored.FOLDER).parent.parts)
    seed = request.param.stem.removeprefix("seed-")
    (row,) = (row for row in ledger.read() if (row["cell"], row["seed"], row["head"]) == (name, seed, "joint"))
    return request.param, cells.compose(name, int(seed), os.environ.get("TAILCACHE_CIFAR", ""), cells.read()), row


def test_it_is_of_its_cell(found):
    file, tree, row = found
    notes = json.loads(file.with_suffix(".json").read_text())
    assert notes["parameters"] == cell.of_training(tree)
    assert [str(notes[key]) for key in ("train_seconds", "revision", "device")] == [
        row[key] for key in ("train_seconds", "revision", "device")
    ]


def test_readme_counts_them():
    assert f"for all {len(FILES)}; after that" in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


@pytest.mark.slow
@pytest.mark.skipif("TAILCACHE_CIFAR" not in os.environ, reason="needs the real CIFAR: set TAILCACHE_CIFAR")
@pytest.mark.parametrize("found", JUDGED, indirect=True, ids=name_of)
def test_it_is_as_good_as_its_row_says(found):
    """By torch's own loop over the test images, in float32."""
    file, tree, row = found
    raw = data_set(tree["data"]["name"])
    labels, classes = raw.test.labels, len(raw.names)
    network = network_of(file, raw)
    scores = network.classifier(features_of(network, raw, raw.test, np.arange(len(labels))))
    right = scores.argmax(1).numpy() == labels
    assert 100 * np.mean([right[labels == k].mean() for k in range(classes)]) == pytest.approx(float(row["all"]), abs=0.1)
