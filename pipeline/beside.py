"""What was reproduced beside what the papers print of it: every head of every cell that has a counterpart, at length and in short."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline import cells, published, tables
from pipeline.ledger import FIGURES, IMAGES, Rows
from pipeline.published import Number
from pipeline.rows import Row, group
from pipeline.runs import Run
from pipeline.settings import results
from pipeline.tables import Cell, Table

FAR = 1.5  # points: a larger difference asks for an explanation


class Entry(NamedTuple):
    """What a paper prints of one classifier: numbers by split, from one table or from several that agree on `all`."""

    paper: str
    method: str
    where: list[str]
    numbers: dict[str, Number]


def at_length(rows: Rows) -> Table:
    """Each head of each cell that has counterparts in the papers, with the same augmentation as far as is known."""
    numbers, lines = sorted(published.read(), key=published.order), []
    for row in by_setting(rows):
        ours = {split: row.values(split) for split in FIGURES}
        for entry in entries(row, numbers):
            theirs = {split: float(number.row["value"]) for split, number in entry.numbers.items()}
            remarks = [each for number in entry.numbers.values() for each in [*published.flags(row, number), number.row["note"]]]
            where = f"table{'s' * (len(entry.where) > 1)} {' and '.join(entry.where)}"
            texts = [cell_of(row), row.head, tables.mean_std(ours["all"]), str(len(ours["all"])), entry.numbers["all"].row["value"]]
            groups = {} if row.head == published.FULL else {split: tables.mean(values) for split, values in ours.items()}
            texts += [tables.signed(ours["all"].mean() - theirs["all"]), by_group(groups)]
            texts += [by_group(theirs), f"{entry.method}: {entry.paper}, {where}", "; ".join(filter(None, dict.fromkeys(remarks)))]
            lines.append([Cell(text) for text in texts])
    columns = ["cell", "head", "ours", "n", "paper", "difference", "ours by group", "paper by group", "the paper's row", "remarks"]
    title = "Ours beside the papers: test accuracy over all classes and over many / medium / few, in percent; mean ± std of n seeds"
    return Table(title, columns, [False, False, True, True, True, True, False, False, False, False], lines, [])


def in_short(rows: Rows) -> Table:
    """The same of heads on cached features, a row a cell and a column a head: ours and, in brackets, what the papers have."""
    numbers = sorted(published.read(), key=published.order)
    found: dict[str, dict[str, Cell]] = {}
    seeds: dict[str, set[int]] = {}
    for row in by_setting([row for row in rows if row["head"] not in IMAGES]):
        theirs, ours = [entry.numbers["all"].row["value"] for entry in entries(row, numbers)], row.values("all")
        if theirs:
            far = min(abs(round(ours.mean() - float(value), 2)) for value in theirs) > FAR
            found.setdefault(cell_of(row), {})[row.head] = Cell(f"{tables.mean_std(ours, 1)} ({', '.join(theirs)})", far)
            seeds.setdefault(cell_of(row), set()).add(len(ours))
    heads = [head for head in dict.fromkeys(row["head"] for row in rows) if any(head in by_head for by_head in found.values())]
    lines = []
    for cell, by_head in found.items():
        n = " to ".join(map(str, sorted({min(seeds[cell]), max(seeds[cell])})))
        lines.append([Cell(cell), Cell(n), *(by_head.get(head, Cell("")) for head in heads)])
    title = (
        f"Ours (the papers'): test accuracy over all classes in percent, mean ± std of n seeds; over {FAR} points from the nearest in MARK"
    )
    return Table(title, ["cell", "n", *heads], [False, *[True] * (1 + len(heads))], lines, [])


def cell_of(row: Row) -> str:
    """The cell whose seeds a row is of."""
    return next(iter(row.results.values())).run.name


def entries(row: Row, numbers: list[Number]) -> list[Entry]:
    """What the papers print of this head on this stage one, under the same augmentation."""
    found: dict[tuple[str, str, str], dict[str, Number]] = {}
    for number in numbers:
        if matches(row, number):
            found.setdefault((number.row["paper"], number.row["method"], number.row["table"]), {})[number.row["split"]] = number
    merged: dict[tuple[str, str], Entry] = {}
    for (paper, method, where), splits in found.items():
        entry = merged.setdefault((paper, splits["all"].row["value"]), Entry(published.PAPERS[paper], method, [], {}))
        entry.where.append(where)
        entry.numbers.update({**splits, **entry.numbers})
    return list(merged.values())


def matches(row: Row, number: Number) -> bool:
    """Whether a published number is the counterpart of ours, under the same augmentation and not of a smaller network."""
    if not published.counterpart(row, number) or number.made_with("train.augment") != row.parameters["train.augment"]:
        return False
    return all(size >= row.parameters.get(f"train.backbone.{name}", math.inf) for name, size in number.sizes().items())


def by_group(values: dict[str, float | None]) -> str:
    """`66.6 / 51.4 / 25.5` for many, medium and few; a dash for what there is not."""
    shown = [values.get(split) for split in FIGURES[1:]]
    return " / ".join("–" if value is None else f"{value:.1f}" for value in shown) if shown != [None] * 3 else "–"


def by_setting(rows: Rows) -> list[Row]:
    """The rows of single networks grouped over seeds, each with the parameters of its cell."""
    rows = [row for row in rows if len(cells.networks(row["cell"])) == 1]
    return group([result for run in runs(rows) for result in results(run)])


def runs(rows: Rows) -> Iterator[Run]:
    """One run for each cell and seed, named after the cell."""
    known = cells.read()
    more = {name: known.heads.get(kind, {"kind": kind}) for name, kind in IMAGES.items()}
    more |= {name: {**head, "kind": published.FULL} for name, head in known.full["heads"].items()}
    found: dict[tuple[str, str], dict[str, dict[str, float | None]]] = {}
    for row in rows:
        own = {split: float(row[split]) if row[split] else None for split in FIGURES}
        found.setdefault((row["cell"], row["seed"]), {})[row["head"]] = own
    for (cell, seed), heads in found.items():
        tree = cells.compose(cell, int(seed), "", known)
        yield Run(cell, None, {**tree, "heads": {**tree["heads"], **more}}, heads, {}, Path())
