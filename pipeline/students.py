"""The two linear classifiers that learn: a whole layer (cRT), or one factor for each class of a fixed layer (LWS)."""

from __future__ import annotations

import numpy as np
import torch


def affine(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """x Wᵀ + b, (b, c): on a CPU a product and a sum take less time than the one operation for both."""
    return x @ weight.T + bias


class Layer:
    """Logits W x + b; weight (c, d) and bias (c,) learn."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.learned = [weight.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (b, c) of features (b, d)."""
        return affine(x, *self.learned)

    def layer(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight (c, d) and bias (c,)."""
        weight, bias = (tensor.detach().cpu().numpy() for tensor in self.learned)
        return weight, bias


class Scales:
    """Logits f_k (w_k x + b_k), the bias scaled too; the factors f (c,), 1 at first, learn."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.fixed, self.learned = (weight, bias), [torch.ones_like(bias).requires_grad_()]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (b, c) of features (b, d)."""
        return self.learned[0] * affine(x, *self.fixed)

    def layer(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight (c, d) and bias (c,) with the factors folded in."""
        factors, (weight, bias) = self.learned[0].detach(), self.fixed
        return (weight * factors[:, None]).cpu().numpy(), (bias * factors).cpu().numpy()
