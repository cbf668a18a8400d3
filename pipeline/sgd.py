"""The optimiser that every trained head shares."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from tqdm import tqdm

from pipeline.device import device
from pipeline.sampling import class_balanced


def minimise(
    parameters: list[torch.Tensor],
    losses: Iterable[torch.Tensor],
    steps: int,
    lr: float,
    weight_decay: float,
    name: str,
) -> None:
    """SGD with momentum 0.9 (no Nesterov) and a cosine from `lr` to 0 over all steps.

    The rate is set at every step, beginning with `lr` itself; Kang et al.'s code steps its schedule before each epoch and so skips the
    first rate. The update is torch.optim.SGD's, written out because building that optimiser imports torch's compiler: 2.4 s of the 4 s
    that a head would take.

    Parameters
    ----------
    parameters : leaf tensors that require gradients, changed in place
    losses : gives one scalar loss a step, computed from `parameters` as they are when it is asked for
    name : shown on the progress bar
    """
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    for step, loss in enumerate(tqdm(losses, name, steps, unit="step", disable=None, leave=False)):
        rate = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
                velocity.mul_(0.9).add_(gradient).add_(parameter, alpha=weight_decay)
                parameter.sub_(velocity, alpha=rate)


def class_balanced_batches(labels: np.ndarray, epochs: int, batch: int, seed: int) -> torch.Tensor:
    """Indices into `labels` for every step of a fit, (steps, batch); an epoch is as many draws as there are samples, rounded up."""
    steps = epochs * -(-len(labels) // batch)
    return to_device(class_balanced(labels, 0, steps * batch, seed).reshape(steps, batch))


def new_linear(classes: int, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (c, d) and bias (c,) as `torch.nn.Linear` starts them, from a seed of their own."""
    bound = 1 / math.sqrt(dim)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(classes, dim).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(classes).uniform_(-bound, bound, generator=generator)
    return weight.to(device()).requires_grad_(), bias.to(device()).requires_grad_()


def to_device(array: np.ndarray) -> torch.Tensor:
    """A NumPy array as a tensor where heads train; copied only if it is read-only, which torch does not know."""
    return torch.from_numpy(np.require(array, requirements="W")).to(device())
