"""README's table of MFW's figure 7: each number computed anew from the stored networks, and its accuracies from runs.csv."""

import os

import numpy as np
import pytest

from pipeline import stored
from pipeline.deviation import feature_deviation, sampling_floor, unit
from tests.conftest import ROOT
from tests.runs_and_papers import each
from tests.stored_networks import computed, features_of, images_of, network_of, said_of_networks

ROWS = said_of_networks(columns=5)
ROUNDS, WORLDS = 300, 20  # 1,000 and 200 in the stage, of which the table is


def test_the_table_is_found():
    assert len(ROWS) == 9
    assert {cell.split("/")[0] for cell, _ in ROWS} == {"cifar10-lt-100", "cifar10-step-100"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_accuracies(row):
    data, _, cell = row[0].partition("-100/")
    assert row[1][3:] == [f"{each(cell, head, data=data)[0] + 1e-9:.1f}" for head in ("joint", "ncm")]


@pytest.mark.slow
@pytest.mark.skipif("TAILCACHE_CIFAR" not in os.environ, reason="needs the real CIFAR: set TAILCACHE_CIFAR")
@pytest.mark.parametrize("row", computed(ROWS), ids=lambda row: row[0])
def test_deviations(row, monkeypatch):
    """Means over the larger and the smaller half of the classes, and over all of what chance gives, as `deviation` has them."""
    monkeypatch.chdir(ROOT)
    cell, numbers = row
    raw, training = images_of(cell)
    network, found = network_of(stored.file(cell, 0), raw), []
    labels = raw.train.labels[training]
    size = np.bincount(labels).min()
    for k in range(len(raw.names)):
        own = unit(features_of(network, raw, raw.train, training[labels == k]))
        target = unit(features_of(network, raw, raw.test, np.flatnonzero(raw.test.labels == k)))
        value = feature_deviation(own, target, size, ROUNDS, np.random.default_rng([0, k]))
        found.append((value, sampling_floor(target, len(own), size, WORLDS, np.random.default_rng([1, k])).mean()))
    deviation, floor = np.array(found).T
    said = [float(number) for number in numbers[:3]]
    half = len(found) // 2
    np.testing.assert_allclose([deviation[:half].mean(), deviation[half:].mean(), floor.mean()], said, atol=0.005)
