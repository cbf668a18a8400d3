"""README's table of what MFW's networks make of a mixed image: each number computed anew from the stored networks."""

import os

import numpy as np
import pytest
import torch

from pipeline import stored
from tests.conftest import ROOT
from tests.stored_networks import computed, images_of, network_of, pixels, said_of_networks

SHARES = (0.0, 0.05, 0.1)  # of a training image in each test image: the table's columns
ROWS = said_of_networks(columns=len(SHARES))


def test_the_table_is_found():
    assert len(ROWS) == 11
    assert {row[0].split("/")[0] for row in ROWS} == {"cifar10-lt-100", "cifar100-lt-100", "cifar10-step-100"}


@pytest.mark.slow
@pytest.mark.skipif("TAILCACHE_CIFAR" not in os.environ, reason="needs the real CIFAR: set TAILCACHE_CIFAR")
@pytest.mark.parametrize("row", computed(ROWS), ids=lambda row: row[0])
def test_shares_classified_into_the_smaller_half_of_the_classes(row, monkeypatch):
    """Test images whose maps behind stage 1 are mixed with those of training images drawn at random, irrespective of both their classes;
    in plain torch, over all test images.
    """
    monkeypatch.chdir(ROOT)
    cell, said = row
    raw, training = images_of(cell)
    partners = np.random.default_rng(0).choice(training, len(raw.test.labels))

    network = network_of(stored.file(cell, 0), raw)
    small = np.zeros(len(SHARES))
    with torch.no_grad():
        for rows in np.array_split(np.arange(len(partners)), 40):
            own, other = (network.maps(pixels(raw, *which), 2) for which in ((raw.test, rows), (raw.train, partners[rows])))
            for i, share in enumerate(SHARES):
                predicted = network.classifier(network.rest((1 - share) * own + share * other, 2)).argmax(1)
                small[i] += (predicted >= len(raw.names) // 2).sum()
    np.testing.assert_allclose([float(number) for number in said], 100 * small / len(partners), atol=0.5)
