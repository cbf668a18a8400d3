"""What the stages have written, read together for people to look at; nothing is computed here."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from pipeline import deviation, evaluate, extract, features, images, metrics, outcomes, params, train
from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.files import InputError
from pipeline.outcomes import Outcome


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
    accuracies, norms : (c,) by head, test accuracy (percent) and weight norm of each class; NaN where there is none
    labels : (n,) of the test images
    outcomes : what each head said of them
    heads : the classifiers, without ensembles
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

    @cached_property
    def features(self) -> dict[str, Features | None]:
        """The cached features of train, val and test."""
        return features.load(params.features_file(self.tree), "train", "val", "test")


def read() -> Results:
    """Read what a finished `dvc repro` left in the current folder.

    Raises
    ------
    InputError
        If evaluate's results are missing, damaged, or not of the heads in params.yaml.
    """
    tree = params.read()
    path, chosen = params.features_file(tree), evaluate.read_params(tree)
    heads = params.head_names(tree)
    named = [*heads, *chosen.ensembles]
    figures = {name: _figures(name) for name in named}
    labels, said = outcomes.read()
    lacking = [name for name in named if name not in said]
    if lacking:
        raise InputError(f"{outcomes.FILE}: nothing of {lacking[0]}; run `dvc repro evaluate`")
    known = next(iter(figures.values()))
    if "ece" not in known:
        raise InputError(f"{evaluate.RESULTS}: made by an earlier version; run `dvc repro evaluate`")
    classifiers = {name: Classifier.load(evaluate.HEADS / f"{name}.safetensors") for name in heads}
    classes = next(iter(classifiers.values())).classes
    counts = features.class_counts(path, classes)
    by_class = _columns(evaluate.RESULTS / "classes.csv", "run `dvc repro evaluate`")
    scattered = {key: _by_head(by_class, key, named, classes) for key in ("accuracy", "weight_norm")}
    imported = path != extract.FILE
    return Results(
        tree=tree,
        title=path.stem if imported else str(tree["data"]["name"]),
        counts=counts,
        names=_class_names(classes, imported),
        figures=figures,
        accuracies=scattered["accuracy"],
        norms=scattered["weight_norm"],
        labels=labels,
        outcomes={name: said[name] for name in named},
        heads=classifiers,
        training=None if imported else _training(),
        deviations=_deviations(classes),
    )


def _figures(name: str) -> dict[str, Any]:
    path = evaluate.RESULTS / "heads" / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found; run `dvc repro`") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); run `dvc repro --force evaluate`") from None


def _columns(path: Path, hint: str) -> dict[str, np.ndarray]:
    """A table's columns as text (rows,)."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {hint}") from None
    return {name: np.array(column) for name, *column in zip(*rows, strict=True)}


def _numbers(column: np.ndarray) -> np.ndarray:
    return np.where(column == "", "nan", column).astype(float)


def _by_head(table: dict[str, np.ndarray], key: str, heads: list[str], classes: int) -> dict[str, np.ndarray]:
    values, of_class = _numbers(table[key]), table["class"].astype(int)
    found = {}
    for head in heads:
        rows = table["head"] == head
        found[head] = np.full(classes, np.nan)
        found[head][of_class[rows]] = values[rows]
    return found


def _training() -> Training | None:
    if not (train.CURVE.exists() and train.CLASSES.exists()):
        return None
    curve = {key: _numbers(column) for key, column in _columns(train.CURVE, "run `dvc repro train`").items()}
    table = {key: _numbers(column) for key, column in _columns(train.CLASSES, "run `dvc repro train`").items()}
    epochs = np.unique(table["epoch"])
    by_class = {key: table[key].reshape(len(epochs), -1) for key in ("accuracy", "classification_ratio", "gradient_norm")}
    return Training(curve, epochs, by_class)


def _deviations(classes: int) -> dict[str, np.ndarray] | None:
    path = deviation.RESULTS / "deviation.csv"
    if not path.exists():
        return None
    table = {key: _numbers(column) for key, column in _columns(path, "run `dvc repro deviation`").items()}
    of_class, found = table.pop("class").astype(int), {}
    if "floor" not in table or of_class.max() >= classes:
        raise InputError(f"{path}: of other features or an earlier version; run `dvc repro deviation`")
    for key, column in table.items():
        found[key] = np.full(classes, np.nan)
        found[key][of_class] = column
    return found


def _class_names(classes: int, imported: bool) -> list[str]:
    if not imported and images.FILE.exists():
        with h5py.File(images.FILE, "r") as file:
            if len(file.attrs["names"]) == classes:
                return list(file.attrs["names"])
    return [str(k) for k in range(classes)]
