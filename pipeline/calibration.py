"""Calibrated Gaussians for feature generation (Zhang and Xiang 2022, GLAG, section 4.2, Eq. 5-10), without a covariance matrix.

A class's Gaussian N(μ_k, Σ_k) is kept as its centred features Y_k / sqrt(N_k - 1): for z ~ N(0, I), z Y_k / sqrt(N_k - 1) has exactly the
covariance Σ_k of Eq. 6, whatever its rank, and a class of one image has the covariance 0. A calibrated draw adds such terms:

    x = (1 - β) x_i + β Σ_j w_j μ_j  +  (1 - β) e_own + β Σ_j sqrt(w_j) e_j + sqrt(γ) e,      w_j = ω_j / Σ ω

with e_k ~ N(0, Σ_k) and e ~ N(0, I), all independent: mean and covariance are Eq. 8 and Eq. 9.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

BLOCK = 4096  # samples compared with all class means at a time


class ClassGaussians:
    """Mean and covariance (Eq. 5-6) of each class.

    Parameters
    ----------
    x : (n, d) features
    labels : (n,) classes
    classes : number of classes c; one without a sample has mean 0 and covariance 0
    """

    def __init__(self, x: torch.Tensor, labels: torch.Tensor, classes: int) -> None:
        self.counts = torch.bincount(labels, minlength=classes)  # (c,)
        order = labels.argsort(stable=True)
        parts = x[order].split(self.counts.tolist())
        self.mean = torch.stack([part.mean(0) if len(part) else x.new_zeros(x.shape[1]) for part in parts])  # (c, d)
        self.centred = [(part - mean) / max(len(part) - 1, 1) ** 0.5 for part, mean in zip(parts, self.mean, strict=True)]

    def noise(self, classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """One draw of N(0, Σ_k) for each entry of `classes` (m,): (m, d)."""
        noise = self.mean.new_zeros(len(classes), self.mean.shape[1])
        order = classes.argsort(stable=True)
        counts = torch.bincount(classes, minlength=len(self.mean)).tolist()
        for factor, rows in zip(self.centred, order.split(counts), strict=True):
            if len(rows):
                z = torch.randn(len(rows), len(factor), generator=generator, device=factor.device, dtype=factor.dtype)
                noise[rows] = z @ factor
        return noise


class Support(NamedTuple):
    """Support set of each sample: `classes` (n, k) int64 and `weights` (n, k), normalised to sum 1; 0 where a slot is empty."""

    classes: torch.Tensor
    weights: torch.Tensor


def support(x: torch.Tensor, labels: torch.Tensor, gaussians: ClassGaussians, size: int) -> Support:
    """The `size` nearest class means among classes with more training samples (Eq. 7) and their weights ω = N / d (Eq. 10).

    The paper's Eq. 7 has a typo ("j in {y_i}"); its text says "other classes k which have more training samples". Where there are fewer
    such classes, those that there are; for the largest class none.
    """
    size, found = min(size, len(gaussians.mean)), []
    for some, mine in zip(x.split(BLOCK), labels.split(BLOCK), strict=True):
        distance = torch.cdist(some, gaussians.mean, compute_mode="donot_use_mm_for_euclid_dist")  # (b, c)
        distance[gaussians.counts <= gaussians.counts[mine][:, None]] = torch.inf
        nearest, classes = distance.topk(size, largest=False)
        omega = torch.where(nearest.isinf(), 0, gaussians.counts[classes].to(x.dtype) / (nearest + 1e-12))
        found.append((classes, omega / omega.sum(1, keepdim=True).clamp(min=1e-30)))
    return Support(*(torch.cat(column) for column in zip(*found, strict=True)))


def calibrated_mean(x: torch.Tensor, support: Support, beta: torch.Tensor, gaussians: ClassGaussians) -> torch.Tensor:
    """Eq. 8: (m, d) from samples x (m, d), their support sets and β (m,). A sample without support keeps β = 0."""
    beta = _where_supported(beta, support)
    borrowed = (support.weights[:, :, None] * gaussians.mean[support.classes]).sum(1)
    return (1 - beta) * x + beta * borrowed


def calibrated_noise(
    labels: torch.Tensor,
    support: Support,
    beta: torch.Tensor,
    gamma: float,
    gaussians: ClassGaussians,
    generator: torch.Generator,
) -> torch.Tensor:
    """One draw of N(0, Σ) with Σ of Eq. 9 for each sample: (m, d) from classes (m,), support sets and β (m,).

    γ is added as γ I ("to increase the degree of dispersion").
    """
    beta = _where_supported(beta, support)
    noise = (1 - beta) * gaussians.noise(labels, generator)
    for slot in range(support.classes.shape[1]):
        share = beta * support.weights[:, slot, None].sqrt()
        used = share[:, 0] > 0
        noise[used] += share[used] * gaussians.noise(support.classes[used, slot], generator)
    if gamma:
        noise += gamma**0.5 * torch.randn(noise.shape, generator=generator, device=noise.device, dtype=noise.dtype)
    return noise


def _where_supported(beta: torch.Tensor, support: Support) -> torch.Tensor:
    return torch.where(support.weights.sum(1) > 0, beta, 0)[:, None]  # (m, 1)
