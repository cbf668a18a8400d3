"""What heads say of the test images, data/predictions.h5: all that a figure, a comparison or a picture of them needs.

For each head, and each ensemble, of every test image (n,): the predicted class, the confidence in it, and the rank of the right class.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from scipy.special import softmax

from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.files import InputError, in_a_line, replacing

FILE = Path("data/predictions.h5")
BLOCK = 2**24  # scores at a time


class Outcome(NamedTuple):
    """predicted (n,) int64; confidence (n,) float32, the largest probability; rank (n,) int32, classes scored above the right one."""

    predicted: np.ndarray
    confidence: np.ndarray
    rank: np.ndarray


def of(voters: list[Classifier], test: Features) -> Outcome:
    """What a head says, or what several say together."""
    return of_vote(voters, test) if len(voters) > 1 else of_head(voters[0], test)


def of_head(classifier: Classifier, test: Features) -> Outcome:
    """What a head says. Its probabilities are the softmax of its scores, whatever scores they are.

    So the confidence of nearest class means is that of Gaussians of variance 1/2 around them, or the softmax of cosines.
    """
    x = test.tapped(classifier.tap).features

    def said(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        scores = classifier.scores(x[rows])
        return scores, 1 / np.exp(scores - scores.max(1, keepdims=True)).sum(1)

    return _collect(said, test, classifier.absent)


def of_vote(voters: list[Classifier], test: Features) -> Outcome:
    """What heads say together: the mean of their probabilities decides."""
    inputs = [test.tapped(voter.tap).features for voter in voters]

    def said(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        mean = sum(softmax(voter.scores(x[rows]), axis=1) for voter, x in zip(voters, inputs, strict=True)) / len(voters)
        return mean, mean.max(1)

    never = [np.zeros(test.classes, bool) if voter.absent is None else voter.absent for voter in voters]
    return _collect(said, test, np.logical_and.reduce(never))


def _collect(said: Callable[[slice], tuple[np.ndarray, np.ndarray]], test: Features, absent: np.ndarray | None) -> Outcome:
    """The outcome from scores (b, c) and confidence (b,) of a block of rows; of equal scores the lowest class comes first, as in argmax.

    absent : (c,) bool, classes that are never predicted: such a right class ranks last
    """
    step, blocks = max(BLOCK // test.classes, 1), []
    for start in range(0, len(test.labels), step):
        rows = slice(start, start + step)
        (scores, confidence), right = said(rows), test.labels[rows, None]
        own = np.take_along_axis(scores, right, axis=1)
        rank = (scores > own).sum(1) + ((scores == own) & (np.arange(test.classes) < right)).sum(1)
        if absent is not None:
            rank[absent[right[:, 0]]] = test.classes
        blocks.append((scores.argmax(1), confidence.astype(np.float32), rank.astype(np.int32)))
    return Outcome(*map(np.concatenate, zip(*blocks, strict=True)))


def write(labels: np.ndarray, outcomes: dict[str, Outcome]) -> None:
    """Write predictions.h5 whole."""
    with replacing(FILE) as temporary, h5py.File(temporary, "w") as file:
        file["labels"] = labels
        for name, outcome in outcomes.items():
            for field, array in outcome._asdict().items():
                file[f"heads/{name}/{field}"] = array


def read(path: Path = FILE) -> tuple[np.ndarray, dict[str, Outcome]]:
    """Labels (n,) and the outcome of every head.

    Raises
    ------
    InputError
        If the file is missing, damaged, or of a time when it held predicted classes only.
    """
    try:
        with h5py.File(path, "r") as file:
            labels = file["labels"][()]
            heads = {name: Outcome(*(head[field][()] for field in Outcome._fields)) for name, head in file["heads"].items()}
    except FileNotFoundError:
        raise InputError(f"{path}: not found; run `dvc repro evaluate`") from None
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a complete file of predictions ({in_a_line(error)}); run `dvc repro evaluate`") from None
    if any(array.shape != labels.shape for outcome in heads.values() for array in outcome):
        raise InputError(f"{path}: not a complete file of predictions (arrays of different lengths); run `dvc repro evaluate`")
    return labels, heads
