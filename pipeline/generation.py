"""The balanced set that AFG trains on: how many features of which class, and drawing them (Zhang and Xiang 2022, GLAG, section 4.2)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from pipeline.calibration import ClassGaussians, Dispersion, Support, Terms, calibrated, disperse, joined, support
from pipeline.classifier import Transform
from pipeline.features import Features
from pipeline.sampling import by_class
from pipeline.sgd import to_device

ROWS = 16384  # features bent at a time


class Plan(NamedTuple):
    """A set of m entries: for each its class, a training sample of that class, and whether to generate or to take the sample."""

    labels: np.ndarray  # (m,) int64
    samples: np.ndarray  # (m,) int64, index into the training features
    generated: np.ndarray  # (m,) bool


def balanced_size(labels: np.ndarray) -> int:
    """How many entries `balanced_plan` has: the largest class's samples, for every class present."""
    counts = np.bincount(labels)
    return int(counts.max() * (counts > 0).sum())


def balanced_plan(labels: np.ndarray, rng: np.random.Generator, size: int | None = None) -> Plan:
    """Every training sample once and so many generated ones that every class present counts as many as the largest, shuffled.

    A class's generated ones are spread over its samples as evenly as can be; which samples get one more is drawn.

    Parameters
    ----------
    size : a random part of so many entries instead of all
    """
    members, real = [rows for rows in by_class(labels) if len(rows)], len(labels)
    largest, whole = max(map(len, members)), balanced_size(labels)
    samples = np.empty(whole, np.int64)  # filled class by class: iNaturalist's 8 million entries are 65 MB an array
    samples[:real], start = np.arange(real), real
    for mine in members:
        stop = start + largest - len(mine)
        samples[start:stop] = np.resize(rng.permutation(mine), stop - start)
        start = stop
    order = rng.permutation(whole)[:size]
    samples = samples[order]
    return Plan(labels[samples], samples, order >= real)


def bend(x: torch.Tensor, power: float) -> torch.Tensor:
    """Tukey's ladder of powers, x^λ, continued to negative values by their sign."""
    return x if power == 1 else x.abs().pow_(power).copysign_(x)


class Source:
    """Draws what a plan asks for. Beside the real features, it holds them bent and sorted by class, where that is not what they are.

    Parameters
    ----------
    train : the real features
    is_head : (c,) bool, head classes: drawn from their own Gaussian, the others from calibrated ones
    power : Tukey's λ
    size : how many classes a sample of a tail class borrows from (K of Eq. 7)
    gamma, dispersion : γ of Eq. 9, and whether it is added as γ I (`identity`) or to all entries of Σ (`all_entries`)
    transform : of stage one's classifier, which all of this happens behind
    views : whether real features are drawn from the cached views of their images, where there are any
    """

    def __init__(
        self,
        train: Features,
        is_head: np.ndarray,
        power: float,
        size: int,
        gamma: float,
        dispersion: Dispersion = "identity",
        transform: Transform | None = None,
        views: bool = False,
    ) -> None:
        self.power, self.gamma, self.dispersion = power, gamma, dispersion
        self.real, self.is_head = to_device(train.features), to_device(is_head)
        self.transform = transform if transform != Transform() else None
        self.views = torch.from_numpy(np.require(train.views, requirements="W")) if views and train.views is not None else None
        order = np.argsort(train.labels, kind="stable")
        self.labels, self.place = to_device(train.labels[order]), to_device(np.argsort(order))  # classes there; where each sample is
        if power == 1 and not self.transform and np.array_equal(order, np.arange(len(order))):
            self.bent = self.real
        else:
            self.bent = torch.empty_like(self.real)
            for rows, some in zip(to_device(order).split(ROWS), self.bent.split(ROWS), strict=True):
                some.copy_(bend(self.seen(self.real.index_select(0, rows)), power))
        self.signed = bool(self.bent.min() < 0)
        self.gaussians = ClassGaussians(self.bent, self.labels, train.classes)
        first = self.gaussians.counts.cumsum(0) - self.gaussians.counts
        self.number = torch.arange(len(order), device=self.labels.device) - first[self.labels]  # of each sample within its class
        tail = (~self.is_head)[self.labels].nonzero()[:, 0]
        self.supports = support(self.bent, self.labels, self.gaussians, size, tail)

    def seen(self, features: torch.Tensor) -> torch.Tensor:
        """Features (b, d) as stage one's classifier sees them."""
        return to_device(self.transform(features.cpu().numpy())) if self.transform else features

    def shown(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """What the student is shown of the real samples `rows` (b,): their features (b, d), or one of the views of each."""
        if self.views is None:
            return self.seen(self.real.index_select(0, rows))
        view = torch.randint(len(self.views), (len(rows),), generator=generator, device=rows.device)
        return self.seen(self.views[view.cpu(), rows.cpu()].to(self.real))

    def generate(self, plan: Plan, beta: torch.Tensor, generator: torch.Generator, room: torch.Tensor | None = None) -> torch.Tensor:
        """Features (m, d) in stage one's space: real where the plan says so, else drawn.

        beta : (c,)
        room : (m or more, d), where to put them; fresh memory for every chunk costs page faults
        """
        samples, generated = to_device(plan.samples), to_device(plan.generated)
        places, labels = self.place[samples], to_device(plan.labels)
        of_head = self.is_head[labels]
        tail, head = (generated & ~of_head).nonzero()[:, 0], (generated & of_head).nonzero()[:, 0]

        supports = Support(*(column.index_select(0, places[tail]) for column in self.supports))
        terms = calibrated(labels[tail], self.number[places[tail]], supports, beta.to(self.bent.dtype)[labels[tail]])
        once = torch.ones(len(head), dtype=self.bent.dtype, device=self.bent.device)
        own = Terms(head, labels[head], once, once, 0 * once, torch.zeros_like(head))
        terms = joined(terms._replace(rows=tail[terms.rows]), own)
        features = self.bent.new_zeros(len(places), self.bent.shape[1]) if room is None else room[: len(places)].zero_()
        self.gaussians.add(features, terms, generator)
        if self.gamma:
            disperse(features, tail, self.gamma, self.dispersion, generator)
        self.unbend(features)
        real = (~generated).nonzero()[:, 0]
        return features.index_copy_(0, real, self.shown(samples[real], generator))

    def unbend(self, x: torch.Tensor) -> None:
        """Back from Tukey's space, in place; features that are never negative (after a ReLU) stay so."""
        if not self.signed:
            x.clamp_(min=0)
        if self.power != 1:
            x.copy_(bend(x, 1 / self.power)) if self.signed else x.pow_(1 / self.power)
