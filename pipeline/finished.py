"""What is kept of a finished cell: a row of data/reproduction/runs.csv for each of its heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py

from pipeline import evaluate, features, image_level, images, ledger, metrics, outcomes, params, published, runs, timings
from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.files import read_json, write_text
from pipeline.settings import voters_of

JUDGED = evaluate.PROVENANCE
FULL = published.FULL  # the folder inside a cell's
ABOUT = "about.json"


def rows(cell: str, seed: int, folder: Path, networks: list[Path]) -> list[dict[str, Any]]:
    """The rows of a cell whose results lie in a folder.

    networks : where its stage one ran; their seconds are added up
    """
    notes = [about(network) for network in networks]
    times = [{"train": note.get("train_seconds"), **seconds(network)} for note, network in zip(notes, networks, strict=True)]
    made = over_images(folder)
    known = of_heads(folder) | {head: made[kind] for head, kind in ledger.IMAGES.items() if made.get(kind)} | of_heads(folder / FULL)
    return [
        {"cell": cell, "seed": seed, "head": head}
        | {split: figures[split] for split in ledger.FIGURES}
        | {"val": figures.get("val"), "selected_on": figures["selected_on"]}
        | {"chosen": " ".join(f"{key}={value:g}" for key, value in figures.get("chosen", {}).items())}
        | {"seconds": figures["seconds"]}
        | {f"{stage}_seconds": together([time.get(stage) for time in times]) for stage in ("train", "extract")}
        | {key: " + ".join(dict.fromkeys(filter(None, (note.get(key) for note in notes)))) for key in ("revision", "device")}
        for head, figures in known.items()
    ]


def over_images(folder: Path) -> dict[str, Any]:
    """Figures of the heads that were asked for over images, by kind; None where they are to be made again."""
    file = folder / image_level.FILE
    return read_json(file, "remove it, and run the cell again") if file.exists() else {}


def of_heads(folder: Path) -> dict[str, Any]:
    """Figures of all heads and ensembles that were judged in a folder, with the seconds of their fit and their accuracy on validation
    images (`val`, by which a recipe may be chosen); none where nothing was judged.
    """
    if not (folder / JUDGED).exists():
        return {}
    times, run = seconds(folder), runs.folder(folder)
    val = features.load(folder / run.tree["features"], "val")["val"]
    found = {}
    for name, figures in run.figures.items():
        voters = [Classifier.load(folder / evaluate.HEADS / f"{each}.safetensors") for each in voters_of(run.tree["evaluate"], name)]
        found[name] = {"seconds": times.get(f"head@{name}"), **figures, "val": val and accuracy(voters, val)}
    return found


def accuracy(voters: list[Classifier], samples: Features) -> float | None:
    """Mean of the classes' accuracies, in percent."""
    predicted = outcomes.of(voters, samples).predicted
    return metrics.mean(metrics.per_class_accuracy(samples.labels, predicted, samples.classes))


def seconds(folder: Path) -> dict[str, float]:
    """How long each stage took, as far as that was noted; of a training that went on after a pause, all its images at the rate of its last
    part.
    """
    found = {}
    for line in timings.read(folder):
        if line["stage"] != "train":
            found[line["stage"]] = line["seconds"]
        elif line["images"]:
            with h5py.File(folder / images.FILE, "r") as file:
                total = params.read(folder / params.FILE)["train"]["epochs"] * len(file["train/labels"])
            found["train"] = round(line["seconds"] / line["images"] * total, 1)
    return found


def together(values: list[float | None]) -> float | None:
    """The sum; None where one is unknown, as after a kill between an artefact and the note of its seconds."""
    return None if None in values else round(sum(values), 3)


def about(folder: Path) -> dict[str, Any]:
    """The commit that stage one began with, and the device that it ran on; empty where the note was lost.

    Of a backbone that was trained elsewhere, `train_seconds` as well.
    """
    file = folder / ABOUT
    return read_json(file, "remove it, and run the cell again") if file.exists() else {}


def note(folder: Path, about: dict[str, Any]) -> None:
    """Write what `about` reads."""
    write_text(folder / ABOUT, json.dumps(about) + "\n", beside=True)
