"""Stage `evaluate`: every head's accuracy on the test set, by split (data/results/), and its predictions (data/predictions.h5).

Needs neither torch nor the heads' code. All heads are read and scored before anything is written, so a failing one leaves the last
results as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from pydantic import Field, model_validator

from pipeline import features, metrics, params
from pipeline.classifier import Classifier
from pipeline.files import InputError, interruptible, replacing, write_csv, write_json

HEADS = Path("data/heads")
RESULTS = Path("data/results")
PREDICTIONS = Path("data/predictions.h5")


class Evaluate(params.Params):
    """many : a class of more training images than this is many-shot; few : one of fewer is few-shot; the others are medium-shot."""

    many: int = Field(100, ge=0)
    few: int = Field(20, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Evaluate:
        if self.few > self.many + 1:
            raise ValueError(f"few ({self.few}) should not exceed many ({self.many}) by more than 1")
        return self


class Result(NamedTuple):
    """One head's outcome: figures (percent), accuracy of each class (c,), predicted classes (n,)."""

    figures: dict[str, Any]
    accuracies: np.ndarray
    predicted: np.ndarray


@interruptible("evaluate: stopped; run it again")
def main() -> None:
    tree = params.read()
    thresholds = params.section(tree, "evaluate", Evaluate)
    names = params.head_names(tree)
    path = params.features_file(tree)
    test = features.load(path, "test")["test"]
    counts = features.class_counts(path, test.classes)
    members = metrics.groups(counts, thresholds.many, thresholds.few)
    results = {name: judge(name, test, members, path) for name in names}
    write(results, test.labels, counts)
    print(table(results, members))


def judge(name: str, test: features.Features, members: dict[str, np.ndarray], source: Path) -> Result:
    """Score one head on the test features."""
    file = HEADS / f"{name}.safetensors"
    classifier = Classifier.load(file)
    if (classifier.dim, classifier.classes) != (test.dim, test.classes):
        raise InputError(
            f"{file}: made for {classifier.dim} features and {classifier.classes} classes, {source} has {test.dim} and {test.classes}; "
            f"run `dvc repro head@{name}`"
        )
    predicted = classifier.predict(test.features)
    accuracies = metrics.per_class_accuracy(test.labels, predicted, test.classes)
    figures = metrics.summary(accuracies, test.labels, predicted, members)
    return Result({**figures, "selected_on": classifier.record.get("selected_on", "nothing")}, accuracies, predicted)


def write(results: dict[str, Result], labels: np.ndarray, counts: np.ndarray) -> None:
    """Write all results, and remove those of heads that params.yaml no longer has."""
    with replacing(PREDICTIONS) as temporary, h5py.File(temporary, "w") as file:
        file["labels"] = labels
        for name, result in results.items():
            file[f"heads/{name}"] = result.predicted

    rank = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")  # 0 for the largest class
    by_split = [
        {"head": name, "split": split, "accuracy": result.figures[split]}
        for name, result in results.items()
        for split in ("all", *metrics.GROUPS)
        if result.figures[split] is not None
    ]
    by_class = [
        {"head": name, "class": k, "rank": rank[k], "train_images": counts[k], "accuracy": round(accuracy, 2)}
        for name, result in results.items()
        for k, accuracy in enumerate(result.accuracies)
        if not np.isnan(accuracy)
    ]
    write_csv(RESULTS / "accuracy.csv", by_split)
    write_csv(RESULTS / "classes.csv", by_class)
    for name, result in results.items():
        write_json(RESULTS / "heads" / f"{name}.json", result.figures)
    for old in (RESULTS / "heads").glob("*.json"):
        if old.stem not in results:
            old.unlink()
    write_json(RESULTS / "metrics.json", {name: result.figures["all"] for name, result in results.items()})


def table(results: dict[str, Result], members: dict[str, np.ndarray]) -> str:
    """What the terminal shows: accuracy in percent, means over classes; the best of each column is starred."""
    columns = [*metrics.GROUPS, "all"]
    best = {c: max((r.figures[c] for r in results.values() if r.figures[c] is not None), default=None) for c in columns}
    sizes = {name: f"{name} ({mask.sum()})" for name, mask in members.items()} | {"all": f"all ({len(members['many'])})"}
    width = max(len("head"), *map(len, results))
    lines = [f"{'head':{width}}  " + "  ".join(f"{sizes[c]:>12}" for c in columns) + "  selected on"]
    for name, result in results.items():
        cells = ["–" if (v := result.figures[c]) is None else f"{v:.2f}{'*' if v == best[c] else ' '}" for c in columns]
        lines.append(f"{name:{width}}  " + "  ".join(f"{cell:>12}" for cell in cells) + f"  {result.figures['selected_on']}")
    return "\n".join(["test accuracy in percent, mean over classes (number of classes), * best", *lines])


if __name__ == "__main__":
    main()
