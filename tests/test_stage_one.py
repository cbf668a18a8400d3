"""Stage one against a loop written out with torch's own optimiser, scheduler by hand, and what it hands on."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from pipeline import prepare, stage_one, train
from tests.conftest import edit, method


def test_training_is_a_loop_with_torchs_optimiser(digits):
    """GraLoss at epoch / epochs, DRW from its start on, SGD with weight decay, the cosine at each step's middle, the mean loss."""
    epochs, batch, decay = 5, 100, 0.05
    chosen = method(loss="graloss", reweight="deferred", augment="none", epochs=epochs, warmup_epochs=0, weight_decay=decay, batch=batch)
    found = stage_one.fit(chosen, digits, 3)

    network = stage_one.new_network(chosen, digits, 3).train()
    counts, labels = torch.tensor(digits.class_counts).float(), torch.tensor(digits.train.labels)
    pixels = torch.tensor(np.array(digits.train.images)) / 255
    x = ((pixels - torch.tensor(digits.mean)) / torch.tensor(digits.std)).permute(0, 3, 1, 2).float()
    effective = (1 - 0.9999) / (1 - 0.9999 ** counts.double())
    weights = (effective / effective.mean()).float()
    sgd = torch.optim.SGD(network.parameters(), lr=1, momentum=0.9, weight_decay=decay)
    steps = math.ceil(len(labels) / batch)
    for epoch in range(epochs):
        order, total = np.random.default_rng([3, epoch, 0]).permutation(len(labels)), 0.0
        for step in range(steps):
            rows = order[batch * step : batch * (step + 1)]
            sgd.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * (epoch + (step + 0.5) / steps) / epochs)) / 2
            logits = network(x[rows]) + (2 ** (epoch / epochs) - 1) * (counts / counts.sum()).log()
            loss = cross_entropy(logits, labels[rows], weights if epoch >= 0.8 * epochs else None)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            total += len(rows) * loss.item()
        assert found.curve[epoch]["loss"] == pytest.approx(total / len(labels), rel=1e-3)
    torch.testing.assert_close(found.network.classifier.weight, network.classifier.weight, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize(("precision", "bf16"), [("bf16", True), ("fp32", False)])
def test_precision_is_that_of_the_objective(digits, monkeypatch, precision, bf16):
    asked, original = [], stage_one.Objective

    def objective(*arguments):
        asked.append(arguments[5])
        return original(*arguments)

    monkeypatch.setattr(stage_one, "Objective", objective)
    stage_one.fit(method(precision=precision), digits, 0)
    assert asked == [bf16]


def test_it_trains_with_the_seed_of_training(workspace, monkeypatch):
    edit("params.yaml", "seed: {subset: 0, train: 0, heads: 0}", "seed: {subset: 1, train: 2, heads: 3}")
    prepare.main()
    asked = []

    def fit(chosen, data, seed, saved):
        asked.append(seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage_one, "fit", fit)
    with pytest.raises(SystemExit):
        train.main()
    assert asked == [2]
