"""What a head's predictions are worth: all its figures, and the table that the terminal shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from pipeline import metrics
from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.outcomes import Outcome


class Result(NamedTuple):
    """The result of a head or an ensemble: figures (percent), accuracy and weight norm of each class (c,), what it said."""

    figures: dict[str, Any]
    accuracies: np.ndarray
    norms: np.ndarray
    outcome: Outcome


def selection(classifiers: Iterable[Classifier]) -> dict[str, Any]:
    """What chose the parameters behind a result that params.yaml does not give, and what was chosen, where a head says so."""
    records = [classifier.record for classifier in classifiers]
    splits = dict.fromkeys(split for record in records for split in record.get("selected_on", "nothing").split(" + "))
    about = {"selected_on": " + ".join(split for split in splits if split != "nothing") or "nothing"}
    if len(records) == 1 and "chosen" in records[0]:
        about["chosen"] = records[0]["chosen"]
    return about


def judge(
    outcome: Outcome,
    classifiers: list[Classifier],
    test: Features,
    counts: np.ndarray,
    members: dict[str, np.ndarray],
    shifts: list[int],
) -> Result:
    """All figures of what classifiers (one, or those that vote) said.

    In order: accuracy by group, over all classes and images; the user's groups; then those of pipeline/metrics.py; how many numbers were
    fitted; and what chose them.
    """
    labels, (predicted, confidence, rank) = test.labels, outcome
    accuracies, right = metrics.per_class_accuracy(labels, predicted, test.classes), rank == 0
    by_group = {name: metrics.mean(accuracies[mask]) for name, mask in members.items()}
    figures = {
        **{name: by_group[name] for name in metrics.GROUPS},
        "all": metrics.mean(accuracies),
        "micro": metrics.micro(labels, predicted),
        "top5": metrics.top_k(labels, rank, test.classes),
        **metrics.spread(accuracies),
        "macro_f1": metrics.macro_f1(labels, predicted, test.classes),
        "ece": {
            "all": metrics.ece(confidence, right),
            **{name: metrics.ece(confidence[mask[labels]], right[mask[labels]]) for name, mask in members.items()},
        },
        "forward": {str(ratio): metrics.shifted(accuracies, counts, ratio) for ratio in shifts},
        "backward": {str(ratio): metrics.shifted(accuracies, counts, ratio, backward=True) for ratio in shifts},
        "groups": {name: value for name, value in by_group.items() if name not in metrics.GROUPS},
        "parameters": sum(classifier.parameters for classifier in classifiers),
        **selection(classifiers),
    }
    norms = classifiers[0].norms if len(classifiers) == 1 else np.full(test.classes, np.nan)
    return Result(figures, accuracies, norms, outcome)


def splits(result: Result) -> dict[str, float | None]:
    """Accuracy over all classes and by group, the user's groups last."""
    return {split: result.figures[split] for split in ("all", *metrics.GROUPS)} | result.figures["groups"]


def table(results: dict[str, Result], members: dict[str, np.ndarray]) -> str:
    """What the terminal shows: accuracy in percent, means over classes; the best of each column is starred."""
    columns = [*members, "all"]
    cells = {name: splits(result) for name, result in results.items()}
    best = {c: max((row[c] for row in cells.values() if row[c] is not None), default=None) for c in columns}
    tested = np.isfinite(next(iter(results.values())).accuracies)
    sizes = {name: f"{name} ({(mask & tested).sum()})" for name, mask in members.items()} | {"all": f"all ({tested.sum()})"}
    width = max(len("head"), *map(len, results))
    widths = {c: max(12, len(sizes[c])) for c in columns}
    lines = [f"{'head':{width}}  " + "  ".join(f"{sizes[c]:>{widths[c]}}" for c in columns) + "  selected on"]
    for name, row in cells.items():
        shown = {c: "–" if row[c] is None else f"{row[c]:.2f}{'*' if row[c] == best[c] else ' '}" for c in columns}
        line = "  ".join(f"{shown[c]:>{widths[c]}}" for c in columns)
        lines.append(f"{name:{width}}  {line}  {results[name].figures['selected_on']}")
    return "\n".join(["test accuracy in percent, mean over classes (number of classes), * best", *lines])
