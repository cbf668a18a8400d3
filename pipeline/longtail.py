"""Cutting a long tail from a balanced training set, and setting images aside before it is cut.

Classes keep their numbers: class 0 is the largest, class C - 1 the smallest (Cao et al. 2019, LDAM, section 4; the reference code of
LDAM-DRW, BBN and MiSLAS alike; MFW's is not published).
"""

from __future__ import annotations

import numpy as np


def class_counts(imbalance: str, n_max: int, ratio: float, classes: int) -> np.ndarray:
    """How many images each class keeps, shape (c,).

    `exponential`: `int(n_max * ratio ** (-k / (c - 1)))`; `step`: the first c // 2 classes keep n_max, the others
    `int(n_max / ratio)`. Both truncate, as the reference code does, so the smallest class may be smaller than n_max / ratio.
    """
    if imbalance == "step":
        return np.where(np.arange(classes) < classes // 2, n_max, int(n_max / ratio))
    return np.array([int(n_max * ratio ** (-k / max(classes - 1, 1))) for k in range(classes)])


def cut(labels: np.ndarray, counts: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose `counts[k]` images of each class.

    One legacy NumPy generator shuffles the whole list of every class, in class order, and the first ones are taken: the very indices
    of the reference code (`rand_number=0` there is seed 0 here). The shuffles do not depend on the counts, so at one seed a smaller
    subset lies inside a larger one.

    Parameters
    ----------
    labels : (n,) class of each image
    counts : (c,) images to keep of each class

    Returns
    -------
    chosen, left_over : indices into `labels`, class by class, in shuffled order
    """
    generator = np.random.RandomState(seed)
    chosen, left_over = [], []
    for k, count in enumerate(counts):
        members = np.flatnonzero(labels == k)
        generator.shuffle(members)
        chosen.append(members[:count])
        left_over.append(members[count:])
    return np.concatenate(chosen), np.concatenate(left_over)


def take_each(labels: np.ndarray, indices: np.ndarray, at_most: int) -> np.ndarray:
    """The first `at_most` of `indices` in every class, kept in their order (classes with fewer give what they have)."""
    taken = [indices[labels[indices] == k][:at_most] for k in np.unique(labels[indices])]
    return np.concatenate(taken) if taken else indices[:0]
