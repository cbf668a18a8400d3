"""README's table of MFW's figure 7: each number computed anew from the stored networks, and its accuracies from runs.csv."""

import os
import re

import numpy as np
import pytest
import torch

from pipeline import stored
from pipeline.deviation import feature_deviation, sampling_floor, unit
from tests.conftest import ROOT
from tests.runs_and_papers import each
from tests.stored_networks import images_of, network_of, pixels

README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^ *\| `((cifar\d+-\w+)-100/([^`]+))` \|((?: [\d.]+ \|){5})$", README, re.MULTILINE)
COMPUTED = ROWS if os.environ.get("TAILCACHE_EVERY_BACKBONE") else [row for row in ROWS if row[2] == "plain/mfw"]  # 40 s each
ROUNDS, WORLDS = 300, 20  # 1,000 and 200 in the stage, of which the table is


def test_the_table_is_found():
    assert len(ROWS) == 9
    assert {data for _, data, *_ in ROWS} == {"cifar10-lt", "cifar10-step"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_accuracies(row):
    _, data, cell, numbers = row
    assert numbers.replace("|", "").split()[3:] == [f"{each(cell, head, data=data)[0] + 1e-9:.1f}" for head in ("joint", "ncm")]


@pytest.mark.slow
@pytest.mark.skipif("TAILCACHE_CIFAR" not in os.environ, reason="needs the real CIFAR: set TAILCACHE_CIFAR")
@pytest.mark.parametrize("row", COMPUTED, ids=lambda row: row[0])
def test_deviations(row, monkeypatch):
    """Means over the larger and the smaller half of the classes, and over all of what chance gives, as `deviation` has them."""
    monkeypatch.chdir(ROOT)
    cell, *_, numbers = row
    raw, training = images_of(cell)
    network, found = network_of(stored.file(cell, 0), raw), []
    labels = raw.train.labels[training]
    size = np.bincount(labels).min()
    for k in range(len(raw.names)):
        own = unit(features(network, raw, raw.train, training[labels == k]))
        target = unit(features(network, raw, raw.test, np.flatnonzero(raw.test.labels == k)))
        value = feature_deviation(own, target, size, ROUNDS, np.random.default_rng([0, k]))
        found.append((value, sampling_floor(target, len(own), size, WORLDS, np.random.default_rng([1, k])).mean()))
    deviation, floor = np.array(found).T
    said = [float(number) for number in numbers.replace("|", "").split()[:3]]
    half = len(found) // 2
    np.testing.assert_allclose([deviation[:half].mean(), deviation[half:].mean(), floor.mean()], said, atol=0.005)


def features(network, raw, split, rows):
    with torch.no_grad():
        return np.concatenate([network.features(pixels(raw, split, some)) for some in np.array_split(rows, -(-len(rows) // 250))])
