"""How stage one changes weights: SGD with momentum, and its learning rate over training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch.optim.sgd import sgd

if TYPE_CHECKING:
    from pipeline.recipe import Train


class SGD:
    """SGD with momentum 0.9 (no Nesterov) and weight decay on all parameters; on a GPU in one kernel.

    It calls the function behind torch.optim.SGD: building that class imports torch's compiler, 4 s before the first step.

    velocities : the momentum of each parameter, zeros at first; all the state there is
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], weight_decay: float) -> None:
        self.parameters, self.weight_decay = list(parameters), weight_decay
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.fused = self.parameters[0].is_cuda

    def step(self, loss: torch.Tensor, lr: float) -> None:
        """Change every parameter by the gradient of a scalar loss."""
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        with torch.no_grad():
            sgd(
                self.parameters,
                [parameter.grad for parameter in self.parameters],
                self.velocities,
                fused=self.fused,
                weight_decay=self.weight_decay,
                momentum=0.9,
                lr=lr,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )


def learning_rate(train: Train, epoch: float) -> float:
    """The rate at a point of training, in (fractional) epochs."""
    if epoch < train.warmup_epochs:
        return train.lr * epoch / train.warmup_epochs
    if train.schedule == "step":
        return train.lr * 0.01 ** ((epoch > 0.8 * train.epochs) + (epoch > 0.9 * train.epochs))
    return train.lr * 0.5 * (1 + math.cos(math.pi * (epoch - train.warmup_epochs) / (train.epochs - train.warmup_epochs)))
