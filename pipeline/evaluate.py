"""Stage `evaluate`: every head's figures on the test set (data/results/), and what it said of each image (data/predictions.h5).

An ensemble is named heads that vote: the mean of their probabilities (the softmax of their scores) decides. It is judged like a head.

Needs neither torch nor the heads' code. All heads are read and scored before anything is written, so a failing one leaves the last
results as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from pipeline import features, metrics, outcomes, params
from pipeline.classifier import Classifier
from pipeline.files import InputError, interruptible, md5, takes_no_arguments, write_csv, write_json
from pipeline.judging import Result, judge, splits, table

HEADS = Path("data/heads")
RESULTS = Path("data/results")
PROVENANCE = RESULTS / "provenance.json"


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


@interruptible("evaluate: stopped; run it again")
def main() -> None:
    tree = params.read()
    evaluate = read_params(tree)
    path = params.features_file(tree)
    test = features.load(path, "test")["test"]
    counts = features.class_counts(path)
    members = members_of(evaluate, counts, path)
    heads = {name: load(name, test) for name in params.head_names(tree)}
    voters = {name: [name] for name in heads} | evaluate.ensembles
    results = {}
    for name, names in voters.items():
        classifiers = [heads[each] for each in names]
        results[name] = judge(outcomes.of(classifiers, test), classifiers, test, counts, members, evaluate.shifts)
    PROVENANCE.unlink(missing_ok=True)  # there again as the last: results without it are of a run that was killed
    write(results, list(heads), test.labels, counts)
    write_json(PROVENANCE, provenance(path, evaluate, list(heads)))
    print(f"evaluate: {path}, {test.classes} classes, {len(test.labels):,} test images on cpu -> {RESULTS}/, {outcomes.FILE}")
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
        params.check_name(group, "evaluate.groups", "a group")
        if group in (*metrics.GROUPS, "all"):
            raise InputError(f"params.yaml: evaluate.groups.{group}: there is a group of that name; choose another")
    for ensemble, voters in evaluate.ensembles.items():
        where = f"params.yaml: evaluate.ensembles.{ensemble}"
        if ensemble in names:
            raise InputError(f"{where}: there is a head of that name; choose another")
        params.check_name(ensemble, "evaluate.ensembles", "an ensemble")
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


def provenance(path: Path, evaluate: Evaluate, heads: list[str]) -> dict[str, Any]:
    """What the results are results of: the features' file, the parameters, and the MD5 of each head's classifier.

    With it, who reads the results later can tell whether what lies beside them still belongs to them.
    """
    classifiers = {name: md5(HEADS / f"{name}.safetensors") for name in heads}
    return {"features": path.as_posix(), "evaluate": evaluate.model_dump(), "classifiers": classifiers}


def write(results: dict[str, Result], heads: list[str], labels: np.ndarray, counts: np.ndarray) -> None:
    """Write all results, of heads and ensembles, and remove classifiers and results that params.yaml no longer has: to DVC the whole folder
    of heads is what `evaluate` read, and what another clone with the same params.yaml does not have would make it run there again.
    """
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
            "weight_norm": None if np.isnan(norm) else f"{norm:.6g}",
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
    for old in HEADS.glob("*.safetensors"):
        if old.stem not in heads:
            old.unlink()
    write_json(RESULTS / "metrics.json", {name: result.figures["all"] for name, result in results.items()})


if __name__ == "__main__":
    takes_no_arguments(__doc__)
    main()
