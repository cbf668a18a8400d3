"""The paired difference of two classifiers on the same test images, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHUNK = 2**22  # numbers drawn at a time


def interval(
    labels: Sequence[np.ndarray],
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the difference in mean per-class accuracy, ours - theirs, in points of percent.

    Test images are drawn anew, with replacement and within their classes, so that every class keeps its number; the difference is taken
    on the same draw for both classifiers, and averaged over the pairs. It says how much of a difference is due to the choice of test
    images. How much is due to training, it does not say: that is what the standard deviation over seeds is for.

    Parameters
    ----------
    labels, ours, theirs : for each pair (one a seed), labels (n,), and the classes that either predicts (n,). Pairs whose labels are
        equal share every draw; those of other labels have other test images, and draw for themselves.
    resamples : how many draws
    level : share of draws between the ends

    Returns
    -------
    low, high : points of percent
    """
    generator = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for members in same_labels(labels):
        gain = sum((ours[k] == labels[k]).astype(int) - (theirs[k] == labels[k]) for k in members)  # (n,) in -len .. len
        total += draws(labels[members[0]], gain, len(members), resamples, generator)
    low, high = np.quantile(100 * total / len(labels), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def same_labels(labels: Sequence[np.ndarray]) -> list[list[int]]:
    """Places of pairs with equal labels, together."""
    groups: list[list[int]] = []
    for k, own in enumerate(labels):
        for members in groups:
            if np.array_equal(labels[members[0]], own):
                members.append(k)
                break
        else:
            groups.append([k])
    return groups


def draws(labels: np.ndarray, gain: np.ndarray, bound: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Mean over classes of the mean gain (resamples,) of images drawn within each class.

    gain (n,) is a whole number in -bound .. bound, so a draw of a class's m images is fully described by how often each of these
    2 bound + 1 values comes up: one multinomial draw of m with the shares that the values have in the class, instead of m indices.
    """
    classes, index = np.unique(labels, return_inverse=True)
    values = np.arange(-bound, bound + 1)
    counts = np.zeros((len(classes), len(values)), int)
    np.add.at(counts, (index, gain + bound), 1)
    sizes = counts.sum(1)
    total = np.zeros(resamples)
    step = max(CHUNK // (resamples * len(values)), 1)
    for start in range(0, len(classes), step):
        size, share = sizes[start : start + step, None], (counts / sizes[:, None])[start : start + step, None]
        drawn = generator.multinomial(size, share, size=(len(size), resamples))  # (classes, resamples, values)
        total += (drawn @ values / size).sum(0)
    return total / len(classes)
