"""What the stages have written, read together for people to look at; nothing is computed here."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from pipeline import deviation, evaluate, extract, features, images, metrics, outcomes, params, prepare, recipe, train
from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.files import InputError, in_a_line, read_json
from pipeline.outcomes import Outcome

AGAIN = "run `dvc repro`"


class Training(NamedTuple):
    """data/training.csv and data/training_classes.csv: columns (epochs,), and by class (measured epochs, c); NaN where a cell is empty."""

    curve: dict[str, np.ndarray]
    epochs: np.ndarray
    by_class: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Results:
    """Everything a report shows.

    tree : params.yaml
    title : what the results are of, in a word
    counts : (c,) training images of each class
    names : of classes, or their numbers where no images.h5 tells
    figures : data/results/heads/*.json by head, in the order of params.yaml, ensembles last
    accuracies : (c,) by head, test accuracy (percent) of each class; NaN for a class without a test image
    norms : (c,) by head, without ensembles, weight norm of each class
    labels : (n,) of the test images
    outcomes : what each head said of them
    heads : the classifiers, without ensembles
    features : the cached features of train, val and test
    training, deviations : None where the stage has not run, as for imported features
    """

    tree: dict[str, Any]
    title: str
    counts: np.ndarray
    names: list[str]
    figures: dict[str, dict[str, Any]]
    accuracies: dict[str, np.ndarray]
    norms: dict[str, np.ndarray]
    labels: np.ndarray
    outcomes: dict[str, Outcome]
    heads: dict[str, Classifier]
    features: dict[str, Features | None]
    training: Training | None
    deviations: dict[str, np.ndarray] | None

    @property
    def classes(self) -> int:
        return len(self.counts)

    @property
    def about(self) -> str:
        """Data and stage one in a line."""
        size = f"{self.counts.sum():,} training images in {self.classes} classes ({self.counts.max():,} to {self.counts.min():,}), "
        size += f"{len(self.labels):,} test images"
        if params.features_file(self.tree) != extract.FILE:
            return f"Imported features; {size}"
        data, stage_one = self.tree["data"], self.tree["train"]
        backbone = " ".join(f"{key} {value}" if key != "family" else str(value) for key, value in stage_one["backbone"].items())
        how = f"loss {stage_one['loss']}, mix {stage_one['mix']}, re-weighting {stage_one['reweight']}, {stage_one['augment']} augmentation"
        tail = f"{data['name']}, {data['imbalance']} imbalance, ratio {data['ratio']:g}"
        return f"{tail}: {size}. {backbone}, {how}, {stage_one['epochs']} epochs"

    @cached_property
    def order(self) -> np.ndarray:
        """Classes (c,) from the largest to the smallest."""
        return np.argsort(-self.counts, kind="stable")

    @cached_property
    def groups(self) -> dict[str, np.ndarray]:
        """Masks (c,) of many, medium and few."""
        chosen = evaluate.read_params(self.tree)
        return metrics.groups(self.counts, chosen.many, chosen.few)


def read() -> Results:
    """Read what a finished `dvc repro` left in the current folder.

    Raises
    ------
    InputError
        If a file is missing or damaged, or if results are of other features, heads or groups than params.yaml names.
    """
    tree = params.read()
    path, chosen, heads = params.features_file(tree), evaluate.read_params(tree), params.head_names(tree)
    if path == extract.FILE:
        prepare.read_params(tree)
        recipe.read(tree)
    _check_provenance(path, chosen)
    named = [*heads, *chosen.ensembles]
    figures = {name: _figures(name) for name in named}
    labels, said = outcomes.read()
    lacking = [name for name in named if name not in said]
    if lacking:
        raise InputError(f"{outcomes.FILE}: nothing of {lacking[0]}; run `dvc repro evaluate`")
    cached = features.load(path, "train", "val", "test")
    test, counts = cached["test"], cached["train"].class_counts
    classifiers = {name: evaluate.load(name, test) for name in heads}
    if not np.array_equal(labels, test.labels):
        raise InputError(f"{outcomes.FILE}: of other test images than {path}; run `dvc repro evaluate`")
    table = _table(evaluate.RESULTS / "classes.csv", "head", "class", "accuracy")
    return Results(
        tree=tree,
        title=path.stem if path != extract.FILE else str(tree["data"]["name"]),
        counts=counts,
        names=_class_names(len(counts), path),
        figures=figures,
        accuracies=_by_head(table, named, len(counts)),
        norms={name: head.norms for name, head in classifiers.items()},
        labels=labels,
        outcomes={name: said[name] for name in named},
        heads=classifiers,
        features=cached,
        training=_training() if path == extract.FILE else None,
        deviations=_deviations(counts),
    )


def _check_provenance(path: Path, chosen: evaluate.Evaluate) -> None:
    """Refuse results of other features or groups than params.yaml names."""
    known = read_json(evaluate.PROVENANCE, AGAIN)
    if params.find(known, "features") != path.as_posix():
        raise InputError(f"{evaluate.RESULTS}: of {params.find(known, 'features')}, and params.yaml names {path}; run `dvc repro`")
    if params.find(known, "evaluate") != chosen.model_dump():
        raise InputError(f"{evaluate.RESULTS}: made with another section `evaluate` than that of params.yaml; run `dvc repro evaluate`")


def _figures(name: str) -> dict[str, Any]:
    path = evaluate.RESULTS / "heads" / f"{name}.json"
    figures = read_json(path, AGAIN)
    if params.find(figures, "ece.all") is None:
        raise InputError(f"{path}: of an earlier version, or damaged; run `dvc repro --force evaluate`")
    return figures


def _table(path: Path, *columns: str) -> dict[str, np.ndarray]:
    """Columns (rows,) of a table, text where a column is called head, numbers elsewhere; an empty cell is NaN."""
    stage = {"data/results/deviation.csv": "deviation", "data/results/classes.csv": "evaluate"}.get(path.as_posix(), "train")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            names, *rows = csv.reader(file)
        table = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
        return {name: table[name] if name == "head" else np.where(table[name] == "", "nan", table[name]).astype(float) for name in columns}
    except FileNotFoundError:
        raise InputError(f"{path}: not found; run `dvc repro {stage}`") from None
    except (ValueError, KeyError) as error:
        raise InputError(f"{path}: of an earlier version, or damaged ({error}); run `dvc repro --force {stage}`") from None


def _by_head(table: dict[str, np.ndarray], heads: list[str], classes: int) -> dict[str, np.ndarray]:
    found = {}
    for head in heads:
        rows = table["head"] == head
        found[head] = np.full(classes, np.nan)
        found[head][table["class"][rows].astype(int)] = table["accuracy"][rows]
    return found


def _training() -> Training | None:
    if not (train.CURVE.exists() and train.CLASSES.exists()):
        return None
    curve = _table(train.CURVE, "epoch", "loss", "train_accuracy", "val_accuracy")
    kinds = ("accuracy", "classification_ratio", "gradient_norm")
    table = _table(train.CLASSES, "epoch", *kinds)
    epochs = np.unique(table["epoch"])
    if len(table["epoch"]) % len(epochs):
        raise InputError(f"{train.CLASSES}: damaged; run `dvc repro --force train`, or `dvc checkout train`")
    return Training(curve, epochs, {kind: table[kind].reshape(len(epochs), -1) for kind in kinds})


def _deviations(counts: np.ndarray) -> dict[str, np.ndarray] | None:
    """Columns (c,) of deviation.csv; NaN for a class that was not measured."""
    path = deviation.RESULTS / "deviation.csv"
    if not path.exists():
        return None
    table = _table(path, "class", "train_images", "deviation", "floor", "floor_low", "floor_high")
    of_class, sizes = table.pop("class").astype(int), table.pop("train_images")
    if of_class.max() >= len(counts) or not np.array_equal(counts[of_class], sizes):
        raise InputError(f"{path}: of other features; run `dvc repro deviation`")
    found = {key: np.full(len(counts), np.nan) for key in table}
    for key, column in table.items():
        found[key][of_class] = column
    return found


def _class_names(classes: int, path: Path) -> list[str]:
    if path == extract.FILE and images.FILE.exists():
        try:
            with h5py.File(images.FILE, "r") as file:
                names = list(file.attrs["names"])
        except (OSError, KeyError) as error:
            raise InputError(f"{images.FILE}: not a complete images file ({in_a_line(error)}); run `dvc repro --force prepare`") from None
        if len(names) == classes:
            return names
    return [str(k) for k in range(classes)]
