"""The balanced set that AFG trains on: how many features of which class, and drawing them (Zhang and Xiang 2022, GLAG, section 4.2)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from pipeline.calibration import ClassGaussians, Support, calibrated_mean, calibrated_noise, support
from pipeline.features import Features
from pipeline.sampling import by_class
from pipeline.sgd import to_device


class Plan(NamedTuple):
    """A balanced set of m entries: for each its class, a training sample of that class, and whether to generate or to take the sample."""

    labels: np.ndarray  # (m,) int64
    samples: np.ndarray  # (m,) int64, index into the training features
    generated: np.ndarray  # (m,) bool


def balanced_plan(labels: np.ndarray, rng: np.random.Generator) -> Plan:
    """Every training sample once and so many generated ones that every class present counts as many as the largest, shuffled.

    A class's generated ones are spread over its samples as evenly as can be; which samples get one more is drawn.
    """
    counts = np.bincount(labels)
    samples = [np.arange(len(labels))]
    for members in by_class(labels, len(counts)):
        if len(members):
            gap = counts.max() - len(members)
            samples.append(np.resize(rng.permutation(members), gap))
    samples = np.concatenate(samples)
    order = rng.permutation(len(samples))
    return Plan(labels[samples[order]], samples[order], order >= len(labels))


def bend(x: torch.Tensor, power: float) -> torch.Tensor:
    """Tukey's ladder of powers, x^λ, continued to negative values by their sign."""
    return x if power == 1 else x.sign() * x.abs() ** power


class Source:
    """Draws what a plan asks for.

    Parameters
    ----------
    train : the real features
    is_head : (c,) bool, head classes: drawn from their own Gaussian, the others from calibrated ones
    power : Tukey's λ
    size : how many classes a sample of a tail class borrows from (K of Eq. 7)
    gamma : γ of Eq. 9
    """

    def __init__(self, train: Features, is_head: np.ndarray, power: float, size: int, gamma: float) -> None:
        self.power, self.gamma, self.is_head = power, gamma, to_device(is_head)
        self.real, self.labels = to_device(train.features), to_device(train.labels)
        self.signed = bool((train.features < 0).any())
        self.bent = bend(self.real, self.power)
        self.gaussians = ClassGaussians(self.bent, self.labels, train.classes)
        self.supports = support(self.bent, self.labels, self.gaussians, size)

    def generate(self, plan: Plan, beta: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Features (m, d) in stage one's space: real where the plan says so, else drawn; beta (c,)."""
        samples, generated = to_device(plan.samples), to_device(plan.generated)
        features, of_head = self.real[samples], self.is_head[self.labels[samples]]
        tail, head = generated & ~of_head, generated & of_head

        i, classes = samples[tail], self.labels[samples[tail]]
        supports = Support(*(column[i] for column in self.supports))
        noise = calibrated_noise(classes, supports, beta[classes], self.gamma, self.gaussians, generator)
        features[tail] = self.unbend(calibrated_mean(self.bent[i], supports, beta[classes], self.gaussians) + noise)

        classes = self.labels[samples[head]]
        features[head] = self.unbend(self.gaussians.mean[classes] + self.gaussians.noise(classes, generator))
        return features

    def unbend(self, x: torch.Tensor) -> torch.Tensor:
        """Back from Tukey's space; features that are never negative (after a ReLU) stay so."""
        return bend(x if self.signed else x.clamp(min=0), 1 / self.power)
