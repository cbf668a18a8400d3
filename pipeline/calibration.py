"""Calibrated Gaussians for feature generation (Zhang and Xiang 2022, GLAG, section 4.2, Eq. 5-10), without a covariance matrix.

A class's Gaussian N(μ_k, Σ_k) is kept as its features X_k (n_k, d). For z ~ N(0, I) with its own mean z̄ taken off,

    (z - z̄) X_k / sqrt(n_k - 1)  =  z (X_k - μ_k) / sqrt(n_k - 1)

has exactly the covariance Σ_k of Eq. 6, whatever its rank; a class of one image has the covariance 0. A calibrated draw adds such terms:

    x = (1 - β) x_i + β Σ_j w_j μ_j  +  (1 - β) e_own + β Σ_j sqrt(w_j) e_j + sqrt(γ) e,      w_j = ω_j / Σ ω

with e_k ~ N(0, Σ_k) and e ~ N(0, I), all independent: mean and covariance are Eq. 8 and Eq. 9. Samples and means are products with X_k,
too, so that all that draws want of a class is one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

Dispersion = Literal["identity", "all_entries"]

ROWS = 1024  # samples compared with class means at a time
SPARE = 4  # classes beyond K whose exact distance is taken, so that rounding in the fast one leaves no nearer class out
NUMBERS = {"cpu": 2**18, "cuda": 2**26}  # coefficients drawn at a time: a CPU keeps them in its cache
TALL = 2  # a class of more than 2 d samples is drawn from its triangular factor (d, d): as exact, less than half the size and the work


class Terms(NamedTuple):
    """Terms of sums: row `rows[t]` gets a μ_k + b e_k + s x with e_k ~ N(0, Σ_k) and x a sample of class k, as many as `classes` (t,).

    a, b and s are `means`, `noises` and `shares` (t,); x is the class's sample number `samples[t]`. No row has two terms of one class.
    """

    rows: torch.Tensor
    classes: torch.Tensor
    means: torch.Tensor
    noises: torch.Tensor
    shares: torch.Tensor
    samples: torch.Tensor


class ClassGaussians:
    """Mean and covariance (Eq. 5-6) of each class.

    Parameters
    ----------
    x : (n, d) features, sorted by class; used where they are, not copied
    labels : (n,) classes
    classes : number of classes c; one without a sample has mean 0 and covariance 0
    """

    def __init__(self, x: torch.Tensor, labels: torch.Tensor, classes: int) -> None:
        self.counts = torch.bincount(labels, minlength=classes)  # (c,)
        self.members = x.split(self.counts.tolist())  # (n_k, d) each
        self.mean = torch.stack([part.mean(0) if len(part) else x.new_zeros(x.shape[1]) for part in self.members])  # (c, d)
        tall = [k for k, part in enumerate(self.members) if len(part) > TALL * x.shape[1]]
        self.triangles = {k: triangle(self.members[k] - self.mean[k]) for k in tall}

    def add(self, sums: torch.Tensor, terms: Terms, generator: torch.Generator) -> None:
        """Add the terms to sums (m, d) in place, class by class."""
        order = terms.classes.argsort(stable=True)
        rows, classes, *columns = (column.index_select(0, order) for column in terms)
        means, noises, shares, samples = (column[:, None] for column in columns)
        counts = self.counts[classes, None]
        noises = noises * (counts > 1) / (counts - 1).clamp(min=1).to(noises.dtype).sqrt()
        stop = 0
        for k, wanted in enumerate(torch.bincount(classes, minlength=len(self.mean)).tolist()):
            start, stop = stop, stop + wanted
            step = max(NUMBERS[sums.device.type] // max(self.members[k].shape), 1)
            for begin in range(start, stop, step):
                some = slice(begin, min(begin + step, stop))
                sums.index_add_(0, rows[some], self._sum(k, means[some], noises[some], shares[some], samples[some], generator))

    def _sum(
        self, k: int, means: torch.Tensor, noises: torch.Tensor, shares: torch.Tensor, samples: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Terms of one class, (b, d), from columns (b, 1); `noises` divided by sqrt(n_k - 1)."""
        members, factor = self.members[k], self.triangles.get(k, self.members[k])
        z = torch.randn(len(means), len(factor), generator=generator, device=factor.device).to(factor.dtype)
        if factor is members:  # all three parts are products with it, so they are one
            z.sub_(z.mean(1, keepdim=True)).mul_(noises).add_(means / len(members))
            return z.scatter_add_(1, samples, shares) @ members
        return (z.mul_(noises) @ factor).addcmul_(means, self.mean[k]).addcmul_(shares, members[samples[:, 0]])


def triangle(centred: torch.Tensor) -> torch.Tensor:
    """R (d, d) with Rᵀ R = Yᵀ Y for Y (n, d), n >= d; its diagonal is not negative, so that float32 and float64 agree."""
    factor = torch.linalg.qr(centred, mode="r").R
    return factor * torch.where(factor.diag() < 0, -1, 1)[:, None]


class Support(NamedTuple):
    """Support set of each sample: `classes` (n, k) int64 and `weights` (n, k), normalised to sum 1; 0 where a slot is empty."""

    classes: torch.Tensor
    weights: torch.Tensor


def support(x: torch.Tensor, labels: torch.Tensor, gaussians: ClassGaussians, size: int, wanted: torch.Tensor | None = None) -> Support:
    """The `size` nearest class means among classes with more training samples (Eq. 7) and their weights ω = N / d (Eq. 10).

    The paper's Eq. 7 has a typo ("j in {y_i}"); its text says "other classes k which have more training samples". Where there are fewer
    such classes, those that there are; for the largest class none.

    Parameters
    ----------
    x, labels : (n, d) samples and (n,) their classes
    wanted : indices of the samples that need one, all by default; the slots of others stay empty
    """
    counts, by_size = gaussians.counts.sort(descending=True, stable=True)
    centre = gaussians.mean.mean(0)  # distances are the same around it, and their rounding is smaller
    means = gaussians.mean[by_size] - centre  # larger classes first: what a sample is compared with is the front part
    squares = means.square().sum(1)
    size = min(size, len(means))
    found = Support(labels.new_zeros(len(x), size), x.new_zeros(len(x), size))
    wanted = torch.arange(len(x), device=x.device) if wanted is None else wanted
    own = gaussians.counts[labels[wanted]]
    for block in wanted[own.argsort(descending=True, stable=True)].split(ROWS):
        some, own = x.index_select(0, block).sub_(centre), gaussians.counts[labels[block], None]
        larger = int((counts > own[-1:]).sum())  # than the smallest class of the block
        if not larger:
            continue
        rough = torch.addmm(squares[:larger], some, means[:larger].T, alpha=-2)  # squared distances, less the sample's own square
        rough[counts[:larger] <= own] = torch.inf
        rough, near = rough.topk(min(size + SPARE, larger), largest=False)
        distance = torch.linalg.vector_norm(means[near].sub_(some[:, None]), dim=2)
        distance, order = distance.masked_fill_(rough.isinf(), torch.inf).topk(min(size, larger), largest=False)
        near = near.gather(1, order)
        omega = torch.where(distance.isinf(), 0, counts[near] / (distance + 1e-12))
        found.classes[block, : near.shape[1]] = torch.where(omega > 0, by_size[near], 0)
        found.weights[block, : near.shape[1]] = omega / omega.sum(1, keepdim=True).clamp(min=1e-30)
    return found


def calibrated(labels: torch.Tensor, samples: torch.Tensor, support: Support, beta: torch.Tensor) -> Terms:
    """What Eq. 8 and 9 add up, but for γ: for m samples, given by classes (m,) and numbers within them (m,), support sets and β (m,).

    A sample without support keeps β = 0.
    """
    beta = torch.where(support.weights.sum(1) > 0, beta, 0)
    rows, slots = support.weights.nonzero(as_tuple=True)
    weights, shared, nothing = support.weights[rows, slots], beta[rows], torch.zeros_like(beta)
    own = Terms(torch.arange(len(labels), device=labels.device), labels, nothing, 1 - beta, 1 - beta, samples)
    borrowed = Terms(rows, support.classes[rows, slots], shared * weights, shared * weights.sqrt(), nothing[rows], torch.zeros_like(rows))
    return joined(own, borrowed)


def joined(*terms: Terms) -> Terms:
    """All terms of several."""
    return Terms(*(torch.cat(columns) for columns in zip(*terms, strict=True)))


def disperse(sums: torch.Tensor, rows: torch.Tensor, gamma: float, dispersion: Dispersion, generator: torch.Generator) -> None:
    """The γ of Eq. 9 ("to increase the degree of dispersion") for some rows of sums (m, d), in place: γ I, or γ in every entry of Σ."""
    wide = sums.shape[1] if dispersion == "identity" else 1
    e = torch.randn(len(rows), wide, generator=generator, device=sums.device).to(sums.dtype)
    sums.index_add_(0, rows, e.expand(-1, sums.shape[1]), alpha=gamma**0.5)
