"""Which training images an epoch shows, and in which order (Kang et al. 2020, section 3, Eq. 1-2).

A sampler draws a class with a probability p_c and then an image of it. What an epoch shows is a function of (seed, epoch); an epoch is as
many images as the training set has, whatever the sampler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

Sampler = Literal["instance", "class_balanced", "square_root", "progressive"]


def epoch_order(sampler: Sampler, labels: np.ndarray, epochs: int, seed: int) -> Callable[[int], np.ndarray]:
    """A function of the epoch that gives the images it shows, (n,) indices into `labels`.

    `instance` : every image once, p_c ∝ n_c
    `class_balanced` : `class_balanced` below, p_c the same for all; an epoch goes on where the one before it stopped
    `square_root` : p_c ∝ √n_c
    `progressive` : from instance in the first epoch to class-balanced in the last, p_c = (1 - t) n_c / n + t / c; t = epoch / (epochs - 1)
        as in the reference code (the paper divides by the number of epochs and would stop short of balance)
    """
    n, counts = len(labels), np.bincount(labels)
    if sampler == "instance":
        return lambda epoch: np.random.default_rng([seed, epoch, 0]).permutation(n)
    if sampler == "class_balanced":
        return lambda epoch: class_balanced(labels, epoch * n, (epoch + 1) * n, seed)

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


def class_balanced(labels: np.ndarray, start: int, stop: int, seed: int, each: int = 4) -> np.ndarray:
    """Draws `start` to `stop` of an endless sequence that shows every class equally often, and every image of a class equally often.

    The class-aware sampler of Kang et al.'s code: a list of the classes is walked again and again, shuffled anew for each round, and each
    visit takes the next `each` images of the class's own cycle, shuffled anew for each turn. Unlike a weighted draw with replacement, no
    image is left out. Every shuffle has a generator of its own, so any part of the sequence can be had without what comes before it.

    Parameters
    ----------
    labels : (n,) classes; those without an image are never drawn

    Returns
    -------
    (stop - start,) indices into `labels`
    """
    members = [rows for rows in by_class(labels) if len(rows)]  # of the classes that have any
    visit, place = np.divmod(np.arange(start, stop), each)
    turn, stand = np.divmod(visit, len(members))
    rounds = {int(r): np.random.default_rng([seed, r, 3]).permutation(len(members)) for r in np.unique(turn)}
    classes = np.concatenate([rounds[r][stand[turn == r]] for r in rounds])

    drawn, position = np.empty(stop - start, np.int64), turn * each + place  # in the class's own sequence: it has one visit a round
    for k, (mine, where) in enumerate(zip(members, by_class(classes, len(members)), strict=True)):
        cycle, offset = np.divmod(position[where], len(mine))
        for c in np.unique(cycle):
            shuffled = np.random.default_rng([seed, k, c, 4]).permutation(mine)
            drawn[where[cycle == c]] = shuffled[offset[cycle == c]]
    return drawn


def weighted(labels: np.ndarray, shares: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Draw a class with probability `shares` (c,), then the next image of its shuffled cycle; (draws,) indices into `labels`.

    The cycles keep images of a class within one use of each other; in Kang et al.'s code square-root sampling draws with replacement, and
    progressive sampling has such cycles too.
    """
    classes = generator.choice(len(shares), draws, p=shares)
    drawn = np.empty(draws, np.int64)
    for mine, where in zip(by_class(labels, len(shares)), by_class(classes, len(shares)), strict=True):
        cycles = np.tile(mine, (-(-len(where) // max(len(mine), 1)), 1))
        drawn[where] = generator.permuted(cycles, axis=1).ravel()[: len(where)]
    return drawn
