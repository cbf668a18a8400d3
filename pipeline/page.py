"""The report as one page: results and pictures put into page.html."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, FileSystemLoader

from pipeline import metrics, params
from pipeline.pictures.style import DPI

if TYPE_CHECKING:
    from pipeline.provenance import Artefact, Provenance
    from pipeline.results import Results

WIDE = 1000  # pixels: a wider picture takes the width of the page


class Drawn(NamedTuple):
    """A picture: its name, title and caption, and PNG bytes for light and for dark pages."""

    name: str
    title: str
    caption: str
    light: bytes
    dark: bytes


class Column(NamedTuple):
    """A column of the table of heads: where its figure stands in a head's JSON file, as a dotted path, and how it reads."""

    key: str
    title: str
    meaning: str
    best: str = "highest"  # highest | lowest | none
    text: bool = False


ACCURACY = "mean over these classes of test accuracy"
COLUMNS = (
    *(Column(group, group, ACCURACY) for group in metrics.GROUPS),
    Column("all", "all", "mean over all classes of test accuracy"),
    Column("micro", "micro", "share of right test images"),
    Column("top5", "top 5", "mean over classes of the share of images whose class is among the five best scored"),
    Column("worst", "worst", "accuracy of the worst class"),
    Column("harmonic", "harmonic", "harmonic mean over classes of accuracy; less than 0.1 % counts as 0.1 %"),
    Column("geometric", "geometric", "geometric mean, likewise"),
    Column("macro_f1", "F1", "mean over classes of F1"),
    Column("ece.all", "ECE", "expected calibration error, 15 bins, over images", "lowest"),
    *(Column(f"ece.{group}", f"ECE {group}", "the same over images of these classes", "lowest") for group in metrics.GROUPS),
)
LAST = (
    Column("parameters", "parameters", "numbers that it takes to classify", "none"),
    Column("seconds", "seconds", "time of its fit, without reading features; not measured where the result came from elsewhere", "none"),
    Column("selected_on", "selected on", "split that chose what params.yaml does not give", "none", text=True),
    Column("chosen", "chosen", "what was chosen there", "none", text=True),
)


def html(found: Results, drawn: list[Drawn], missing: list[tuple[str, str]], provenance: Provenance) -> str:
    """The page as text; it needs nothing beside it."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    seconds = {artefact.stage.removeprefix("head@"): artefact.seconds for artefact in provenance.artefacts if "@" in artefact.stage}
    shown = columns(found)
    return environment.get_template("page.html").render(
        title=found.title,
        about=found.about,
        classes=found.classes,
        groups=", ".join(f"{int(mask.sum())} {name}" for name, mask in found.groups.items()),
        columns=shown,
        rows=rows(found, shown, seconds),
        drawn=[picture(each) for each in drawn],
        missing=missing,
        provenance=provenance,
        artefacts=[line(artefact) for artefact in provenance.artefacts],
        parameters=params.FILE.read_text(encoding="utf-8"),
    )


def columns(found: Results) -> list[Column]:
    """The table's columns for these results: with the user's own groups, and the long-tailed test sets of the largest ratio."""
    first = next(iter(found.figures.values()))
    own = [Column(f"groups.{name}", name, f"{ACCURACY}: evaluate.groups.{name}") for name in first["groups"]]
    shifts = [
        Column(f"{way}.{ratio}", f"{way} {ratio}", f"accuracy to expect on a long-tailed test set of ratio {ratio}, {sizes}")
        for way, sizes in (("forward", "with the training set's order of sizes"), ("backward", "with the opposite order"))
        for ratio in sorted(first[way], key=float)[-1:]
    ]
    return [*COLUMNS[:4], *own, *COLUMNS[4:], *shifts, *LAST]


def rows(found: Results, shown: list[Column], seconds: dict[str, float | None]) -> list[dict[str, Any]]:
    """The table's rows: a head's name, and for each column the cell's text and class in the style sheet."""
    values = {}
    for name, figures in found.figures.items():
        all_figures = {**figures, "seconds": seconds.get(name)}
        values[name] = [params.find(all_figures, column.key) for column in shown]
    best = []
    for place, column in enumerate(shown):
        known = [row[place] for row in values.values() if row[place] is not None]
        pick = {"highest": max, "lowest": min}.get(column.best)
        best.append(pick(known) if pick and len(set(known)) > 1 else None)
    return [
        {
            "name": name,
            "cells": [
                {"text": _text(value, column), "kind": "text" if column.text else "best" if value is not None and value == top else ""}
                for value, column, top in zip(row, shown, best, strict=True)
            ],
        }
        for name, row in values.items()
    ]


def _text(value: Any, column: Column) -> str:
    if column.key == "seconds":
        return "not measured" if value is None else f"{value:.2f}"
    if value is None:
        return "" if column.text else "–"
    if isinstance(value, dict):
        return ", ".join(f"{key} {number:g}" for key, number in value.items())
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}" if isinstance(value, float) else str(value)


def picture(drawn: Drawn) -> dict[str, Any]:
    """What page.html needs of a picture; its width on the page is its size in inches."""
    (pixels,) = struct.unpack(">I", drawn.light[16:20])  # the width in the header of a PNG
    light, dark = (base64.b64encode(each).decode() for each in (drawn.light, drawn.dark))
    width = round(pixels * 96 / DPI)  # a page has 96 to the inch
    return {**drawn._asdict(), "light": light, "dark": dark, "width": width, "wide": pixels > WIDE}


def line(artefact: Artefact) -> dict[str, str]:
    """A row of the table of files."""
    size = f"{artefact.size / 1e6:,.2f} MB" if artefact.size >= 1e5 else f"{artefact.size / 1e3:,.1f} kB"
    time = "not measured" if artefact.seconds is None else f"{artefact.seconds:,.2f} s"
    return {"path": artefact.path, "md5": artefact.md5, "size": size, "time": time}
