"""Differences to a baseline: another head of the same runs, or the same head under another setting; paired run by run of equal seeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import outcomes, paired, tables
from pipeline.files import InputError
from pipeline.rows import Row, differing, stage_one
from pipeline.settings import Result


class Difference(NamedTuple):
    """Mean difference in `all` over pairs of runs, and its interval (None where predictions are missing), points of percent."""

    mean: float
    ends: tuple[float, float] | None
    pairs: int


class Missing(Exception):
    """Why there is no interval."""


def choose(wanted: str | None, rows: list[Row]) -> tuple[str, Callable[[Row], list[Row]]]:
    """The baseline's name, and what finds a row's baseline: itself for a baseline, nothing where there is no counterpart.

    `wanted` is a head, or `KEY=VALUE` (several with commas); None is `joint`, where there is one, or else no baseline, named "".

    Raises
    ------
    InputError
        For a head or a value that no run has; on a search, for a setting that is not the only one.
    """
    heads = list(dict.fromkeys(row.head for row in rows))
    name = wanted or ("joint" if "joint" in heads else "")
    if "=" in name:
        return name, by_setting(dict(part.split("=", 1) for part in name.split(",") if "=" in part), rows)
    if name and name not in heads:
        raise InputError(f"--baseline {name}: no run has such a head; known: {', '.join(heads)}; or a setting, as in train.loss=ce")
    return name, lambda row: [other for other in rows if other.head == name and stage_one(other) == stage_one(row)]


def by_setting(wanted: dict[str, str], rows: list[Row]) -> Callable[[Row], list[Row]]:
    """Finds the row of the same head that has the wanted values and otherwise what the row has of the parameters that differ."""
    for key, value in wanted.items():
        values = {str(row.parameters[key]) for row in rows if key in row.parameters}
        if value not in values:
            known = f"values of {key}: {', '.join(sorted(values))}" if values else f"differing: {', '.join(differing(rows)) or 'nothing'}"
            raise InputError(f"--baseline {key}={value}: no run has it; {known}")
    others = [name for name in differing(rows) if name not in wanted]

    def find(row: Row) -> list[Row]:
        fitting = [
            other
            for other in rows
            if other.head == row.head
            and all(str(other.parameters.get(key)) == value for key, value in wanted.items())
            and all(other.parameters[key] == row.parameters[key] for key in others if key in other.parameters and key in row.parameters)
        ]
        if row in fitting or len(fitting) < 2:
            return [row] if row in fitting else fitting
        name = ",".join(f"{key}={value}" for key, value in wanted.items())
        more = differing(fitting)[0]
        raise InputError(f"--baseline {name}: several settings have it; say which, as in {name},{more}={fitting[0].parameters.get(more)}")

    return find


def differences(find: Callable[[Row], list[Row]], rows: list[Row]) -> tuple[list[Difference | None], list[str]]:
    """Each row's difference to its baseline, None for a baseline and for what has none; and lines on what keeps intervals away."""
    found: list[Difference | None] = []
    problems: dict[str, set[str]] = {}
    for row in rows:
        candidates = find(row)
        pairs = [(own, other) for own in row.results.values() if (other := partner(own, candidates))] if row not in candidates else []
        gains = [own.figure("all") - other.figure("all") for own, other in pairs]
        if not gains:
            found.append(None)
            continue
        said = []
        for own, other in pairs:
            try:
                said.append(outcome(own, other))
            except Missing as error:
                what, name = error.args
                problems.setdefault(what, set()).add(name)
        ends = paired.interval(*zip(*said, strict=True)) if len(said) == len(pairs) else None
        found.append(Difference(float(np.mean(gains)), ends, len(pairs)))
    return found, [f"no interval for {tables.some(names)}: {what}" for what, names in problems.items()]


def partner(own: Result, candidates: list[Row]) -> Result | None:
    """The baseline's result of the same seeds: that of the same run, or else the only one."""
    fitting = [other for row in candidates for other in row.results.values() if other.seeds == own.seeds]
    fitting = [other for other in fitting if other.run.name == own.run.name] or fitting
    return fitting[0] if len(fitting) == 1 and None not in (fitting[0].figure("all"), own.figure("all")) else None


def outcome(own: Result, other: Result) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the classes that either predicts, (n,) each.

    Raises
    ------
    Missing
        With the reason and the run's name.
    """
    labels, ours = predictions(own)
    their_labels, theirs = predictions(other)
    if not np.array_equal(labels, their_labels):
        raise Missing("the baseline was tested on other images", own.run.name)
    return labels, ours, theirs


def predictions(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predicted classes of a result, (n,) each."""
    run = result.run
    if not run.predictions.exists():
        if run.predictions.name == "predictions.h5":
            raise Missing("there is no data/predictions.h5; `dvc pull` brings it, or `dvc repro evaluate` writes it", run.name)
        raise Missing("DVC's cache has no predictions of it; `dvc exp pull` brings an experiment's, `dvc pull` a commit's", run.name)
    read = load(run.predictions)
    if read is None or result.head not in read[1]:
        raise Missing("predictions are damaged or of an older form; run it again, or `dvc repro evaluate` in the folder", run.name)
    return read[0], read[1][result.head]


@cache
def load(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """Labels (n,) and predicted classes (n,) of every head; None where the file cannot be read."""
    try:
        labels, heads = outcomes.read(path)
    except InputError:
        return None
    return labels, {name: head.predicted for name, head in heads.items()}
