"""Which training images an epoch shows, and in which order (Kang et al. 2020, section 3, Eq. 1-2).

A sampler draws a class with a probability p_c and then an image of it. What an epoch shows is a function of (seed, epoch) and of the
parameters; an epoch is as many images as the training set has, whatever the sampler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

Sampler = Literal["instance", "class_balanced", "square_root", "progressive"]


def epoch_order(sampler: Sampler, labels: np.ndarray, epochs: int, seed: int) -> Callable[[int], np.ndarray]:
    """A function of the epoch that gives the images it shows, (n,) indices into `labels`.

    `instance` : every image once, p_c ∝ n_c
    `class_balanced` : `class_balanced` below, p_c the same for all; its cycles go on from epoch to epoch
    `square_root` : p_c ∝ √n_c
    `progressive` : from instance in the first epoch to class-balanced in the last, p_c = (1 - t) n_c / n + t / c; t = epoch / (epochs - 1)
        as in the reference code (the paper divides by the number of epochs and would stop short of balance)
    """
    n, counts = len(labels), np.bincount(labels)
    if sampler == "instance":
        return lambda epoch: np.random.default_rng([seed, epoch, 0]).permutation(n)
    if sampler == "class_balanced":
        drawn = class_balanced(labels, epochs * n, np.random.default_rng([seed, 0])).reshape(epochs, n)
        return lambda epoch: drawn[epoch]

    roots, present = np.sqrt(counts), (counts > 0).astype(float)

    def shares(epoch: int) -> np.ndarray:
        if sampler == "square_root":
            return roots / roots.sum()
        t = epoch / max(epochs - 1, 1)
        return (1 - t) * counts / n + t * present / present.sum()

    return lambda epoch: weighted(labels, shares(epoch), n, np.random.default_rng([seed, epoch, 0]))


def by_class(labels: np.ndarray, classes: int = 0) -> list[np.ndarray]:
    """Indices into `labels` of each class, in order: an array a class, empty for one without a sample, and at least `classes` of them."""
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=classes))[:-1])


def class_balanced(labels: np.ndarray, draws: int, generator: np.random.Generator, each: int = 4) -> np.ndarray:
    """Draw every class equally often, and every image of a class equally often.

    The class-aware sampler of Kang et al.'s code: a shuffled list of the classes is walked again and again, and each visit takes the next
    `each` images of the class's own shuffled cycle. Unlike a weighted draw with replacement, no image is left out.

    Parameters
    ----------
    labels : (n,) classes; those without an image are never drawn
    draws : length of the result

    Returns
    -------
    (draws,) indices into `labels`
    """
    members = [rows for rows in by_class(labels) if len(rows)]  # of the classes that have any
    visits = -(-draws // each)
    rounds = np.tile(np.arange(len(members)), (-(-visits // len(members)), 1))
    classes = np.repeat(generator.permuted(rounds, axis=1).ravel()[:visits], each)[:draws]

    return _images(classes, members, generator)


def weighted(labels: np.ndarray, shares: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Draw a class with probability `shares` (c,), then the next image of its shuffled cycle; (draws,) indices into `labels`.

    The cycles (Kang et al.'s code draws with replacement) keep images of a class within one use of each other.
    """
    return _images(generator.choice(len(shares), draws, p=shares), by_class(labels, len(shares)), generator)


def _images(classes: np.ndarray, members: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """For each drawn class (draws,) an image of it: the class's `members` are used up in random order before any comes again."""
    drawn = np.empty(len(classes), np.int64)
    for mine, where in zip(members, by_class(classes, len(members)), strict=True):
        cycles = np.tile(mine, (-(-len(where) // max(len(mine), 1)), 1))
        drawn[where] = generator.permuted(cycles, axis=1).ravel()[: len(where)]
    return drawn
