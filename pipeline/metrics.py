"""Figures of long-tailed recognition as pure functions; accuracies in percent."""

from __future__ import annotations

import numpy as np

GROUPS = ("many", "medium", "few")


def per_class_accuracy(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Accuracy of each class (c,), percent; NaN for a class without a test image. labels and predicted are (n,)."""
    total = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    return 100 * np.divide(right, total, out=np.full(classes, np.nan), where=total > 0)


def groups(class_counts: np.ndarray, many: int, few: int) -> dict[str, np.ndarray]:
    """Masks (c,) of the classes with more than `many` training images, with fewer than `few`, and of those between.

    Liu et al. 2019 and Kang et al. 2020 (section 5.1) use 100 and 20. Always from counts: index ranges are wrong for other ratios.
    """
    return {
        "many": class_counts > many,
        "medium": (class_counts <= many) & (class_counts >= few),
        "few": class_counts < few,
    }


def summary(accuracies: np.ndarray, labels: np.ndarray, predicted: np.ndarray, members: dict[str, np.ndarray]) -> dict[str, float | None]:
    """Accuracy by group, over all classes and over all images, percent with two decimals.

    `many`, `medium`, `few` and `all` are means over classes (None for a group without a tested class); `micro` is the share of right
    images, which is the same as `all` on a balanced test set.
    """
    figures = {name: _mean(accuracies[mask]) for name, mask in members.items()}
    return {**figures, "all": _mean(accuracies), "micro": round(100 * float((labels == predicted).mean()), 2)}


def _mean(accuracies: np.ndarray) -> float | None:
    tested = accuracies[~np.isnan(accuracies)]
    return round(float(tested.mean()), 2) if len(tested) else None


def feature_deviation(train: np.ndarray, test: np.ndarray, size: int, rounds: int, generator: np.random.Generator) -> float:
    """How far the mean training feature of one class lies from its mean test feature (MFW, section 5.4).

    The mean over `rounds` draws of ||mean of `size` training features - mean of all test features||_2; features are L2-normalised, draws
    are without replacement, means are not normalised again. A class of exactly `size` images has only one such subset.

    Parameters
    ----------
    train : (n, d) features of the class's training images, n >= size
    test : (m, d) features of its test images
    """
    train, target = unit(train), unit(test).mean(0)
    if len(train) == size:
        return float(np.linalg.norm(train.mean(0) - target))
    distances = []
    for start in range(0, rounds, 100):
        draws = min(100, rounds - start)
        chosen = generator.random((draws, len(train))).argpartition(size - 1, axis=1)[:, :size]
        member = np.zeros((draws, len(train)))
        np.put_along_axis(member, chosen, 1 / size, axis=1)
        distances.append(np.linalg.norm(member @ train - target, axis=1))  # (draws,)
    return float(np.concatenate(distances).mean())


def unit(x: np.ndarray) -> np.ndarray:
    """Rows divided by their L2 norm, float64; a zero row stays zero."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
