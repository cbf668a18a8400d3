"""The optimiser that every trained head shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch.optim.sgd import sgd

from pipeline.device import device
from pipeline.progress import bar


def minimise(
    parameters: list[torch.Tensor],
    losses: Iterable[torch.Tensor],
    steps: int,
    lr: float,
    weight_decay: float,
    name: str,
    after_step: Callable[[], object] | None = None,
) -> None:
    """SGD with momentum 0.9 (no Nesterov) and a cosine from `lr` to 0 over all steps.

    The rate is set at every step, beginning with `lr` itself; Kang et al.'s code steps its schedule before each epoch and so skips the
    first rate. The update is the function behind torch.optim.SGD: building that class imports torch's compiler, which takes longer than
    most heads. Fused, it reads a large weight once a step instead of four times.

    Parameters
    ----------
    parameters : leaf tensors that require gradients, changed in place
    losses : gives one scalar loss a step, computed from `parameters` as they are when it is asked for
    name : shown on the progress bar
    after_step : called without gradients behind every step; may change `parameters` (a projection)
    """
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    for step, loss in enumerate(bar(losses, name, "step", steps)):
        rate = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        gradients = list(torch.autograd.grad(loss, parameters))
        with torch.no_grad():
            sgd(
                parameters,
                gradients,
                velocities,
                fused=True,
                weight_decay=weight_decay,
                momentum=0.9,
                lr=rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            if after_step:
                after_step()


def new_linear(outputs: int, inputs: int, seed: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (outputs, inputs) and bias (outputs,) as `torch.nn.Linear` starts them, from a seed of their own."""
    bound = 1 / math.sqrt(inputs)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(outputs).uniform_(-bound, bound, generator=generator)
    return weight.to(device(), dtype).requires_grad_(), bias.to(device(), dtype).requires_grad_()


def dtype_of(array: np.ndarray) -> torch.dtype:
    """torch's name for an array's precision; heads compute in that of their features."""
    return torch.from_numpy(np.empty(0, array.dtype)).dtype


def to_device(array: np.ndarray) -> torch.Tensor:
    """A NumPy array as a tensor where heads train; copied only if it is read-only, which torch does not know."""
    return torch.from_numpy(np.require(array, requirements="W")).to(device())
