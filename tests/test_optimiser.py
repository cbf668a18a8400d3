"""Stage one's SGD against torch's own."""

import copy

import numpy as np
import pytest
import torch

from pipeline import backbone
from pipeline.optimiser import SGD


@pytest.mark.parametrize("fused", [False, True])
def test_it_takes_the_steps_of_torchs_sgd(fused):
    """Weights and momentum of a small network over ten steps of changing rate."""
    torch.manual_seed(0)
    mine = backbone.build("cifar_resnet", {"depth": 8, "width": 4}, 3, 5).to(memory_format=torch.channels_last)
    theirs = copy.deepcopy(mine)
    ours, oracle = SGD(mine.parameters(), 0.01), torch.optim.SGD(theirs.parameters(), 0.1, 0.9, weight_decay=0.01, foreach=False)
    ours.fused = fused
    for step in range(10):
        x, y, lr = torch.randn(6, 3, 8, 8), torch.arange(6) % 5, 0.1 * np.cos(step / 10)
        ours.step(torch.nn.functional.cross_entropy(mine(x), y), lr)
        oracle.param_groups[0]["lr"] = lr
        oracle.zero_grad()
        torch.nn.functional.cross_entropy(theirs(x), y).backward()
        oracle.step()
    for a, b, velocity in zip(mine.parameters(), theirs.parameters(), ours.velocities, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4 if fused else 0, atol=1e-6 if fused else 0)
        torch.testing.assert_close(velocity, oracle.state[b]["momentum_buffer"], rtol=1e-3 if fused else 0, atol=1e-5 if fused else 0)
