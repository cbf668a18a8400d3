"""Stage `evaluate`: every head's accuracy on the test set, by split (data/results/), and its predictions (data/predictions.h5).

An ensemble is named heads that vote: the mean of their probabilities (the softmax of their scores) decides. It is judged like a head.

Needs neither torch nor the heads' code. All heads are read and scored before anything is written, so a failing one leaves the last
results as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
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
BLOCK = 4096  # rows that vote at a time


class Evaluate(params.Params):
    """many : a class of more training images than this is many-shot; few : one of fewer is few-shot; the others are medium-shot.

    ensembles : by name, the heads that vote, as in `ensembles: {two: [crt, ncm]}`
    """

    many: int = Field(100, ge=0)
    few: int = Field(20, ge=0)
    ensembles: dict[str, list[str]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Evaluate:
        if self.few > self.many + 1:
            raise ValueError(f"few ({self.few}) should not exceed many ({self.many}) by more than 1")
        return self


class Result(NamedTuple):
    """The outcome of a head or an ensemble: figures (percent), accuracy of each class (c,), predicted classes (n,)."""

    figures: dict[str, Any]
    accuracies: np.ndarray
    predicted: np.ndarray


@interruptible("evaluate: stopped; run it again")
def main() -> None:
    tree = params.read()
    evaluate = read_params(tree)
    path = params.features_file(tree)
    test = features.load(path, "test")["test"]
    counts = features.class_counts(path, test.classes)
    members = metrics.groups(counts, evaluate.many, evaluate.few)
    heads = {name: load(name, test) for name in params.head_names(tree)}
    predicted = {name: head.predict(test.tapped(head.tap).features) for name, head in heads.items()}
    predicted |= {name: vote([heads[head] for head in voters], test) for name, voters in evaluate.ensembles.items()}
    about = {name: provenance(heads[head] for head in evaluate.ensembles.get(name, [name])) for name in predicted}
    results = {name: judge(predicted[name], test, members, about[name]) for name in predicted}
    write(results, test.labels, counts)
    print(table(results, members))


def read_params(tree: dict[str, Any]) -> Evaluate:
    """Check the section `evaluate`, ensembles against the heads that there are.

    Raises
    ------
    InputError
        Naming the yaml path and what is wrong.
    """
    evaluate = params.section(tree, "evaluate", Evaluate)
    names = params.head_names(tree)
    for ensemble, voters in evaluate.ensembles.items():
        where = f"params.yaml: evaluate.ensembles.{ensemble}"
        if ensemble in names:
            raise InputError(f"{where}: there is a head of that name; choose another")
        params.check_name(ensemble, "evaluate.ensembles")
        if len(voters) < 2 or len(set(voters)) < len(voters):
            raise InputError(f"{where}: expected two or more different heads, got {', '.join(voters) or 'none'}")
        for name in voters:
            if name not in names:
                raise InputError(f"{where}: no head {name!r}; known: {', '.join(names)}")
    return evaluate


def load(name: str, test: features.Features) -> Classifier:
    """A head's classifier, fit for the test features."""
    file = HEADS / f"{name}.safetensors"
    classifier = Classifier.load(file)
    if (classifier.dim, classifier.classes) != (test.dim, test.classes):
        raise InputError(
            f"{file}: made for {classifier.dim} features and {classifier.classes} classes, {test.source} has {test.dim} and "
            f"{test.classes}; run `dvc repro head@{name}`"
        )
    return classifier


def vote(voters: list[Classifier], test: features.Features) -> np.ndarray:
    """Classes (n,) int64 with the largest mean probability."""
    from scipy.special import softmax

    inputs = [test.tapped(voter.tap).features for voter in voters]
    predicted = []
    for start in range(0, len(test.labels), BLOCK):
        rows = slice(start, start + BLOCK)
        total = sum(softmax(voter.scores(x[rows]), axis=1) for voter, x in zip(voters, inputs, strict=True))
        predicted.append(total.argmax(1))
    return np.concatenate(predicted)


def provenance(classifiers: Iterable[Classifier]) -> dict[str, Any]:
    """What chose the parameters behind a result that params.yaml does not give, and what was chosen, where a head says so."""
    records = [classifier.record for classifier in classifiers]
    splits = sorted({record.get("selected_on", "nothing") for record in records} - {"nothing"})
    about = {"selected_on": " + ".join(splits) or "nothing"}
    if len(records) == 1 and "chosen" in records[0]:
        about["chosen"] = records[0]["chosen"]
    return about


def judge(predicted: np.ndarray, test: features.Features, members: dict[str, np.ndarray], about: dict[str, Any]) -> Result:
    """The outcome of predicted classes (n,)."""
    accuracies = metrics.per_class_accuracy(test.labels, predicted, test.classes)
    figures = metrics.summary(accuracies, test.labels, predicted, members)
    return Result({**figures, **about}, accuracies, predicted)


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
