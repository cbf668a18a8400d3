"""Stage `evaluate`: every head's figures on the test set (data/results/), and what it said of each image (data/predictions.h5).

An ensemble is named heads that vote: the mean of their probabilities (the softmax of their scores) decides. It is judged like a head.

Needs neither torch nor the heads' code. All heads are read and scored before anything is written, so a failing one leaves the last
results as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from pipeline import features, metrics, outcomes, params
from pipeline.classifier import Classifier
from pipeline.files import InputError, interruptible, write_csv, write_json
from pipeline.outcomes import Outcome

HEADS = Path("data/heads")
RESULTS = Path("data/results")


class Group(params.Params):
    """Classes of interest: those numbered in `classes` (all if not given) that have between at_least and at_most training images."""

    classes: list[int] | None = None
    at_least: int = Field(0, ge=0)
    at_most: int | None = Field(None, ge=0)


class Evaluate(params.Params):
    """many : a class of more training images than this is many-shot; few : one of fewer is few-shot; the others are medium-shot.

    groups : more groups of classes, by name, as in `groups: {vehicles: {classes: [0, 1, 8, 9]}, one_shot: {at_most: 1}}`
    shifts : imbalance ratios of the forward and backward long-tailed test sets (those of Hong et al. 2021 by default)
    ensembles : by name, the heads that vote, as in `ensembles: {two: [crt, ncm]}`
    """

    many: int = Field(100, ge=0)
    few: int = Field(20, ge=0)
    groups: dict[str, Group] = Field(default_factory=dict)
    shifts: list[Annotated[int, Field(ge=1)]] = Field(default=[2, 5, 10, 25, 50])
    ensembles: dict[str, list[str]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Evaluate:
        if self.few > self.many + 1:
            raise ValueError(f"few ({self.few}) should not exceed many ({self.many}) by more than 1")
        return self


class Result(NamedTuple):
    """The result of a head or an ensemble: figures (percent), accuracy and weight norm of each class (c,), what it said."""

    figures: dict[str, Any]
    accuracies: np.ndarray
    norms: np.ndarray
    outcome: Outcome


@interruptible("evaluate: stopped; run it again")
def main() -> None:
    tree = params.read()
    evaluate = read_params(tree)
    path = params.features_file(tree)
    test = features.load(path, "test")["test"]
    counts = features.class_counts(path, test.classes)
    members = members_of(evaluate, counts, path)
    heads = {name: load(name, test) for name in params.head_names(tree)}
    voters = {name: [name] for name in heads} | evaluate.ensembles
    results = {}
    for name, names in voters.items():
        classifiers = [heads[each] for each in names]
        outcome = outcomes.of_vote(classifiers, test) if len(names) > 1 else outcomes.of_head(classifiers[0], test)
        results[name] = judge(outcome, classifiers, test, counts, members, evaluate.shifts)
    write(results, test.labels, counts)
    print(f"evaluate: {path}, {test.classes} classes, {len(test.labels):,} test images -> {RESULTS}/, {outcomes.FILE}")
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
    for group in evaluate.groups:
        params.check_name(group, "evaluate.groups")
        if group in (*metrics.GROUPS, "all"):
            raise InputError(f"params.yaml: evaluate.groups.{group}: there is a group of that name; choose another")
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


def members_of(evaluate: Evaluate, counts: np.ndarray, path: Path) -> dict[str, np.ndarray]:
    """Masks (c,) of every group's classes: many, medium, few and the user's own, from training images by class (c,)."""
    members = metrics.groups(counts, evaluate.many, evaluate.few)
    for name, group in evaluate.groups.items():
        unknown = [k for k in group.classes or () if not 0 <= k < len(counts)]
        if unknown:
            raise InputError(
                f"params.yaml: evaluate.groups.{name}.classes: {path} has no class {unknown[0]}; its classes are 0 to {len(counts) - 1}"
            )
        named = np.isin(np.arange(len(counts)), group.classes) if group.classes is not None else np.ones(len(counts), bool)
        members[name] = named & (counts >= group.at_least) & (counts <= (counts.max() if group.at_most is None else group.at_most))
    return members


def provenance(classifiers: Iterable[Classifier]) -> dict[str, Any]:
    """What chose the parameters behind a result that params.yaml does not give, and what was chosen, where a head says so."""
    records = [classifier.record for classifier in classifiers]
    splits = sorted({record.get("selected_on", "nothing") for record in records} - {"nothing"})
    about = {"selected_on": " + ".join(splits) or "nothing"}
    if len(records) == 1 and "chosen" in records[0]:
        about["chosen"] = records[0]["chosen"]
    return about


def judge(
    outcome: Outcome,
    classifiers: list[Classifier],
    test: features.Features,
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
        **provenance(classifiers),
    }
    norms = classifiers[0].norms if len(classifiers) == 1 else np.full(test.classes, np.nan)
    return Result(figures, accuracies, norms, outcome)


def write(results: dict[str, Result], labels: np.ndarray, counts: np.ndarray) -> None:
    """Write all results, and remove those of heads that params.yaml no longer has."""
    outcomes.write(labels, {name: result.outcome for name, result in results.items()})
    place = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")  # 0 for the largest class
    by_split = [
        {"head": name, "split": split, "accuracy": value}
        for name, result in results.items()
        for split, value in splits(result).items()
        if value is not None
    ]
    by_class = [
        {
            "head": name,
            "class": k,
            "rank": place[k],
            "train_images": counts[k],
            "accuracy": round(accuracy, 2),
            "weight_norm": None if np.isnan(norm) else round(norm, 6),
        }
        for name, result in results.items()
        for k, (accuracy, norm) in enumerate(zip(result.accuracies.tolist(), result.norms.tolist(), strict=True))
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


def splits(result: Result) -> dict[str, float | None]:
    """Accuracy over all classes and by group, the user's groups last."""
    return {split: result.figures[split] for split in ("all", *metrics.GROUPS)} | result.figures["groups"]


def table(results: dict[str, Result], members: dict[str, np.ndarray]) -> str:
    """What the terminal shows: accuracy in percent, means over classes; the best of each column is starred."""
    columns = [*members, "all"]
    cells = {name: splits(result) for name, result in results.items()}
    best = {c: max((row[c] for row in cells.values() if row[c] is not None), default=None) for c in columns}
    sizes = {name: f"{name} ({mask.sum()})" for name, mask in members.items()} | {"all": f"all ({len(members['many'])})"}
    width = max(len("head"), *map(len, results))
    widths = {c: max(12, len(sizes[c])) for c in columns}
    lines = [f"{'head':{width}}  " + "  ".join(f"{sizes[c]:>{widths[c]}}" for c in columns) + "  selected on"]
    for name, row in cells.items():
        shown = {c: "–" if row[c] is None else f"{row[c]:.2f}{'*' if row[c] == best[c] else ' '}" for c in columns}
        line = "  ".join(f"{shown[c]:>{widths[c]}}" for c in columns)
        lines.append(f"{name:{width}}  {line}  {results[name].figures['selected_on']}")
    return "\n".join(["test accuracy in percent, mean over classes (number of classes), * best", *lines])


if __name__ == "__main__":
    main()
