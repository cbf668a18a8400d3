"""Figures of long-tailed recognition as pure functions in NumPy; percent, unless said otherwise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

GROUPS = ("many", "medium", "few")
FLOOR = 0.1  # percent: what a class of lower accuracy counts as in harmonic and geometric mean, which one class at 0 would make 0
BINS = 15  # of confidence, as in Guo et al. 2017 and MiSLAS


def per_class_accuracy(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Accuracy of each class (c,); NaN for a class without a test image. labels and predicted are (n,)."""
    return per_class(labels, labels == predicted, classes)


def per_class(labels: np.ndarray, values: np.ndarray, classes: int) -> np.ndarray:
    """100 times the mean over each class's images (c,) of values (n,), fractions or booleans; NaN for a class without an image."""
    total = np.bincount(labels, minlength=classes)
    return 100 * np.divide(np.bincount(labels, values, classes), total, out=np.full(classes, np.nan), where=total > 0)


def groups(class_counts: np.ndarray, many: int, few: int) -> dict[str, np.ndarray]:
    """Masks (c,) of the classes with more than `many` training images, with fewer than `few`, and of those between.

    Liu et al. 2019 and Kang et al. 2020 (section 5.1) use 100 and 20. Always from counts: index ranges are wrong for other ratios.
    """
    return {
        "many": class_counts > many,
        "medium": (class_counts <= many) & (class_counts >= few),
        "few": class_counts < few,
    }


def mean(accuracies: np.ndarray) -> float | None:
    """Mean over the classes that are not NaN; None if all are, for a group without a tested class."""
    return _figure(np.nanmean(accuracies)) if np.isfinite(accuracies).any() else None


def spread(accuracies: np.ndarray) -> dict[str, float]:
    """How unequal classes are: accuracy of the worst, and the means that low ones pull down most.

    In `harmonic` and `geometric` (Du and Wu 2023 compare methods by both) a class of less than 0.1 % counts as 0.1 %.
    """
    tested = accuracies[np.isfinite(accuracies)]
    floored = np.maximum(tested, FLOOR)
    harmonic, geometric = 1 / (1 / floored).mean(), np.exp(np.log(floored).mean())
    return {"worst": _figure(tested.min()), "harmonic": _figure(harmonic), "geometric": _figure(geometric)}


def micro(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Share of right images: the mean over classes on a balanced test set, and on no other."""
    return _figure(100 * (labels == predicted).mean())


def macro_f1(labels: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Mean over the tested classes of F1 = 2 right / (images of the class + images classified into it)."""
    images, into = np.bincount(labels, minlength=classes), np.bincount(predicted, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    tested = images > 0
    return _figure(100 * (2 * right[tested] / (images + into)[tested]).mean())


def top_k(labels: np.ndarray, rank: np.ndarray, classes: int, k: int = 5) -> float | None:
    """Mean over classes of the share of images whose class is among the k best scored; None for k classes or fewer.

    rank : (n,) how many classes are scored above the right one
    """
    return mean(per_class(labels, rank < k, classes)) if classes > k else None


class Reliability(NamedTuple):
    """Images by confidence: share of all in each bin, mean confidence and accuracy there (b,), fractions; NaN in an empty bin."""

    share: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Reliability:
    """Confidence (n,) in (0, 1] in bins of equal width, closed above, against what was right (n,) (Guo et al. 2017, section 2)."""
    place = np.clip(np.ceil(confidence.astype(float) * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    of_bin = [np.divide(np.bincount(place, v, bins), count, out=np.full(bins, np.nan), where=count > 0) for v in (confidence, right)]
    return Reliability(count / len(right), *of_bin)


def ece(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float | None:
    """Expected calibration error (Guo et al. 2017, Eq. 3): distance of confidence and accuracy, the mean over images; None without any."""
    if not len(right):
        return None
    found = reliability(confidence, right, bins)
    return _figure(100 * np.nansum(found.share * np.abs(found.accuracy - found.confidence)))


def shifted(accuracies: np.ndarray, class_counts: np.ndarray, ratio: float, backward: bool = False) -> float:
    """Accuracy to expect on a long-tailed test set, from accuracies (c,) on any other, by weighing classes (Hong et al. 2021, LADE).

    Forward, class sizes fall exponentially from the class with most training images to the one with fewest, the first `ratio` times the
    last; backward they rise. Classes of equal training size share what their places have; NaN accuracies are left out.
    """
    weights = np.empty(len(class_counts))
    weights[np.argsort(class_counts if backward else -class_counts)] = np.geomspace(1, 1 / ratio, len(class_counts))
    _, same = np.unique(class_counts, return_inverse=True)
    weights = (np.bincount(same, weights) / np.bincount(same))[same]
    tested = np.isfinite(accuracies)
    return _figure(np.average(accuracies[tested], weights=weights[tested]))


def _figure(value: float) -> float:
    return round(float(value), 2)
