"""Re-weighting, and the loss of a batch put together from the three choices."""

import numpy as np
import pytest
import torch

from pipeline.losses import ce
from pipeline.network import Mix
from pipeline.objective import batch_loss
from pipeline.reweighting import class_balanced, deferred, none

COUNTS = torch.tensor([500.0, 80.0, 9.0, 2.0])


def effective_number(counts, beta):
    raw = [(1 - beta) / (1 - beta**n) for n in counts]
    return [w * len(raw) / sum(raw) for w in raw]


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_class_balanced_weights_are_the_effective_number(beta):
    weights = class_balanced.Reweighting(beta=beta).build(COUNTS)(0.1)
    np.testing.assert_allclose(weights, effective_number(COUNTS.tolist(), beta), rtol=1e-5)
    assert weights.sum() == pytest.approx(4)


def test_towards_beta_one_weights_are_inverse_counts():
    weights = class_balanced.Reweighting(beta=1 - 1e-9).build(COUNTS)(0.0)
    np.testing.assert_allclose(weights * COUNTS, (weights * COUNTS)[0].expand(4), rtol=1e-4)


def test_deferred_weights_begin_at_their_share_of_training():
    at = deferred.Reweighting(start=0.8).build(COUNTS)
    assert at(159 / 200).tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(at(160 / 200), effective_number(COUNTS.tolist(), 0.9999), rtol=1e-5)


def test_no_reweighting_is_ones():
    assert none.Reweighting().build(COUNTS)(0.9).tolist() == [1, 1, 1, 1]


def test_batch_loss_is_torchs_weighted_mean():
    z, y = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 4
    weights = torch.tensor([0.1, 0.4, 1.0, 2.5], dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(z, y, weight=weights)
    torch.testing.assert_close(batch_loss(z, y, None, ce.Loss().build(COUNTS), weights, 0.0), expected)


def test_mixed_labels_count_for_both_classes():
    z, y = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 3, 1])
    weights = torch.tensor([0.1, 0.4, 1.0, 2.5], dtype=torch.float64)
    mu, partner = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64), torch.tensor([1, 2, 0])
    log_p = z.log_softmax(1)
    total = sum(-(1 - mu[i]) * weights[y[i]] * log_p[i, y[i]] - mu[i] * weights[y[partner[i]]] * log_p[i, y[partner[i]]] for i in range(3))
    share = sum((1 - mu[i]) * weights[y[i]] + mu[i] * weights[y[partner[i]]] for i in range(3))
    actual = batch_loss(z, y, Mix(0, partner, mu, mu), ce.Loss().build(COUNTS), weights, 0.0)
    torch.testing.assert_close(actual, total / share)
