"""What was reproduced (data/reproduction/runs.csv), as tables: the best beside the best published, every head of every cell, what cached
features replace, and, by pipeline/beside.py, each number beside the papers'.
"""

from __future__ import annotations

import numpy as np

from pipeline import beside, cells, ledger, params, published, tables
from pipeline.cells import Cells, Tree
from pipeline.files import InputError
from pipeline.ledger import FIGURES, IMAGES, Rows
from pipeline.published import Number
from pipeline.tables import Cell, Table

SAID = {"all": "over all classes", "few": "over few-shot classes"}


def every_table() -> str:
    """All tables as Markdown, the long ones folded.

    Raises
    ------
    InputError
        If nothing was reproduced yet.
    """
    every, known = ledger.read(), cells.read()
    if not every:
        raise InputError(f"{ledger.FILE}: no rows; `python -m pipeline.reproduce run CELL` makes some")
    rows = [row for row in every if row["head"] in of_every_cell(known)]
    shown = [beside.in_short(rows), best(rows), over_images(rows)]
    long = [beside.at_length(rows), *(matrix(rows, figure) for figure in SAID), variants(every)]
    texts = [tables.markdown(table) for table in shown if table.rows] + [tables.folded(table) for table in long if table.rows]
    return "\n\n".join(texts)


def of_every_cell(known: Cells) -> set[str]:
    """The heads and ensembles that cells have in common: without variants, and without what cells.yaml has no more."""
    return {*known.heads, *(params.find(known.common, "evaluate.ensembles") or {}), *ledger.ON_DEMAND}


def matrix(rows: Rows, figure: str) -> Table:
    """A figure of every head (columns) of every cell (rows), mean and spread over seeds; the best head of each cell is marked.

    A head that has not all seeds of its cell says how many, and is not the best: other seeds are other networks. A head that saw the whole
    training set has no place here.
    """
    heads = list(dict.fromkeys(row["head"] for row in rows if row["head"] != published.FULL))
    lines = []
    for cell in cells_of(rows):
        values = {head: figures(of(rows, cell, head), figure) for head in heads}
        n = max(map(len, values.values()))
        top = max((v.mean() for v in values.values() if len(v) == n), default=None) if n else None
        best = {head: bool(n) and len(v) == n and v.mean() == top for head, v in values.items()}
        texts = {head: tables.mean_std(v) + f" (n = {len(v)})" * (0 < len(v) < n) for head, v in values.items()}
        lines.append([Cell(cell), *(Cell(texts[head], best[head]) for head in heads)])
    title = f"Every head, {SAID[figure]}: test accuracy in percent, the best of each cell in MARK"
    return Table(title, ["cell", *heads], [False, *[True] * len(heads)], lines, [])


def best(rows: Rows) -> Table:
    """For each data set, number and size of networks the cell and head of the highest accuracy on validation images, beside the best that
    was published, where anything was, but for networks that are known to be larger or to have had more epochs. Cells of the most seeds are
    the candidates.
    """
    known, numbers, lines = cells.read(), published.read(), []
    for (data, networks, network), ours in sorted(candidates(rows, known).items()):
        seeds = max(map(len, ours.values()))
        accuracies = {key: [figures(same, column) for column in ("val", "all")] for key, same in ours.items() if len(same) == seeds}
        cell, head = max(accuracies, key=lambda key: accuracies[key][0].mean())
        val, test = accuracies[cell, head]
        tree = parameters(cell, known)
        found = [number for number in numbers if comparable(number, tree)]
        theirs = max(found, key=lambda number: float(number.row["value"]), default=None)
        texts = [data, str(networks), network, cell.partition("/")[2], head]
        texts += [tables.mean_std(val), tables.mean_std(test), str(seeds)]
        lines.append([Cell(text) for text in texts + (against(theirs, test.mean()) if theirs else ["–"] * 4)])
    columns = ["data", "networks", "each", "cell", "head", "validation", "test", "n", "published", "difference", "whose", "remarks"]
    title = (
        "Chosen on validation images among cells of the most seeds, beside the best of published.csv (one network of the same family, no "
        "larger and of no more epochs where they are known): accuracy in percent"
    )
    return Table(title, columns, [False, True, False, False, False, *[True] * 5, False, False], lines, [])


def against(number: Number, ours: float) -> list[str]:
    """A published number, the difference of our accuracy (percent) to it, whose it is and what is remarked on it."""
    row = number.row
    remarks = [row["note"], "" if epochs_of(number) else "its epochs are not stated"]
    whose = f"{row['method']}: {published.place(row)}"
    return [row["value"], tables.signed(ours - float(row["value"])), whose, "; ".join(filter(None, remarks))]


def candidates(rows: Rows, known: Cells) -> dict[tuple[str, int, str], dict[tuple[str, str], Rows]]:
    """Rows with an accuracy on validation images: by data set, number of networks and what each is, then by cell and head."""
    found: dict[tuple[str, int, str], dict[tuple[str, str], Rows]] = {}
    networks = {cell: architecture(**parameters(cell, known)["train"]["backbone"]) for cell in cells_of(rows)}
    for row in rows:
        if row["val"]:
            setting = row["cell"].partition("/")[0], len(cells.networks(row["cell"])), networks[row["cell"]]
            found.setdefault(setting, {}).setdefault((row["cell"], row["head"]), []).append(row)
    return found


def architecture(family: str, **options: object) -> str:
    """`cifar_resnet, depth 32, width 16`."""
    return f"{family}, {in_words(options)}"


def parameters(cell: str, known: Cells) -> Tree:
    """Those of a cell's networks, which differ in their method alone."""
    return cells.compose(cells.networks(cell)[0][0], 0, "", known)


def figures(rows: Rows, column: str) -> np.ndarray:
    """A figure (n,) of the rows that have it: no class of CIFAR-10-LT at 100 is few-shot."""
    return np.array([float(row[column]) for row in rows if row[column]])


def comparable(number: Number, tree: Tree) -> bool:
    """Whether a published number is an accuracy over all classes of the same data, by a network of the same family that is not known to be
    larger or to have been trained for more epochs.
    """
    row, data, train = number.row, tree["data"], tree["train"]
    same = (row["data"], row["imbalance"], row["ratio"]) == (data["name"], data["imbalance"], str(data["ratio"]))
    family = number.made_with("train.backbone.family") or train["backbone"]["family"]
    if not same or row["split"] != "all" or row["head"] == published.FULL or family != train["backbone"]["family"]:
        return False
    no_larger = all(size <= train["backbone"].get(name, 0) for name, size in number.sizes().items())
    return no_larger and (epochs_of(number) or 0) <= train["epochs"]


def epochs_of(number: Number) -> int | None:
    """How long a published network was trained, where that is known."""
    known = number.made_with("train.epochs")
    return int(known) if known else None


def over_images(rows: Rows) -> Table:
    """Heads on cached features, without and with views, beside the same heads trained over images, all of the same seeds."""
    lines = []
    for cell in cells_of(rows):
        for name, kind in IMAGES.items():
            seeds = {row["seed"] for row in of(rows, cell, name)}
            for head, how in ((kind, "cached"), (f"{kind}_views", "cached, with views"), (name, "over images")):
                same = [row for row in of(rows, cell, head) if row["seed"] in seeds]
                if same:
                    accuracies = [tables.mean_std(figures(same, split)) for split in FIGURES]
                    spent = tables.mean(figures(same, "seconds"))
                    seconds = "–" if spent is None else f"{spent:,.1f}"
                    lines.append([Cell(text) for text in (cell, kind, how, str(len(same)), *accuracies, seconds)])
    columns = ["cell", "head", "features", "n", *FIGURES, "seconds to fit"]
    title = "Heads on cached features and over images (frozen backbone, features computed anew in every epoch): test accuracy in percent"
    return Table(title, columns, [False, False, False, *[True] * 6], lines, [])


def of(rows: Rows, cell: str, head: str) -> Rows:
    """The rows of a cell and a head, one for each seed."""
    return [row for row in rows if (row["cell"], row["head"]) == (cell, head)]


def cells_of(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["cell"] for row in rows))


def variants(rows: Rows) -> Table:
    """Variants of a head beside that head: what a paper leaves open."""
    known, lines = cells.read(), []
    for cell, varied in known.variants.items():
        for head, changes in varied.items():
            changed = {f"{head}-{name}": in_words(change) for name, change in changes.items()}
            if any(of(rows, cell, name) for name in changed):
                for name, what in {head: "as above", **changed}.items():
                    same = of(rows, cell, name)
                    accuracies = [tables.mean_std(figures(same, column)) for column in ("val", *FIGURES)]
                    lines.append([Cell(text) for text in (cell, head, what, str(len(same)), *accuracies)])
    columns = ["cell", "head", "changed", "n", "validation", *FIGURES]
    return Table("Variants of heads: accuracy in percent", columns, [False, False, False, *[True] * 6], lines, [])


def in_words(change: dict[str, object]) -> str:
    """`lr 0.01, epochs 10`."""
    return ", ".join(f"{key} {tables.text(value)}" for key, value in change.items())
