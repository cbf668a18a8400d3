"""Which training images an epoch shows, and in which order (Kang et al. 2020, section 3, Eq. 1)."""

from __future__ import annotations

import numpy as np


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

    drawn = np.empty(draws, np.int64)
    for mine, where in zip(members, by_class(classes, len(members)), strict=True):
        cycles = np.tile(mine, (-(-len(where) // len(mine)), 1))
        drawn[where] = generator.permuted(cycles, axis=1).ravel()[: len(where)]
    return drawn
