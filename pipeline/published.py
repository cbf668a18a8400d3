"""Our numbers beside those of the papers (data/reproduction/published.csv), with what differs in protocol.

A published number is the counterpart of ours if data set, imbalance, loss, mixing, re-weighting, sampler and kind of head are the same,
and so is what its column `parameters` lists. Columns `protocol` (stated in the paper) and `inferred` (from the code that it builds on)
list what else it was made with: where ours differs it is named, with a question mark if inferred. Keys are those of params.yaml;
`head.epochs` is that of the head at hand.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline import methods, params, tables
from pipeline.files import InputError
from pipeline.rows import Row, differing
from pipeline.tables import Cell, Table

FILE = Path("data/reproduction/published.csv")
FULL = "full"  # as a kind of head: a linear classifier on the whole, balanced training set
PAPERS = {
    "mfw": "MFW",
    "decoupling": "Kang",
    "glag": "GLAG",
    "gml": "Suh and Seo 2023",
    "proco": "Du et al. 2024",
    "weight_balancing": "Alshammari et al. 2022",
    "glmc": "Du, Yang et al. 2023",
    "sure": "Li et al. 2024",
    "score": "Majee et al. 2024",
}
SPLITS = ("all", "many", "medium", "few", "top5")
SAME = {
    "data.name": "data",
    "data.imbalance": "imbalance",
    "data.ratio": "ratio",
    "train.loss": "loss",
    "train.mix": "mix",
    "train.reweight": "reweight",
    "train.sampler": "sampler",
}  # parameter: its column
LISTS = ("parameters", "protocol", "inferred")
COLUMNS = {"paper", "table", "method", "split", "value", "head", "note", *SAME.values(), *LISTS}


class Number(NamedTuple):
    """A published number: the file's row, and its lists of parameters, parsed."""

    row: dict[str, str]
    parameters: dict[str, str]
    protocol: dict[str, str]
    inferred: dict[str, str]

    def made_with(self, key: str) -> str | None:
        """A parameter that the number was made with, stated or inferred; None where neither tells."""
        return self.protocol.get(key, self.inferred.get(key))

    def sizes(self) -> dict[str, int]:
        """Depth and width of its network, as far as they are known."""
        known = {name: self.made_with(f"train.backbone.{name}") for name in ("depth", "width")}
        return {name: int(text) for name, text in known.items() if text}


def read(path: Path = FILE) -> list[Number]:
    """All published numbers.

    Raises
    ------
    InputError
        If the file is missing, or a row of it is not as the others: names its line.
    """
    try:
        lines = csv.DictReader(path.read_text(encoding="utf-8").splitlines(), restkey="")
    except FileNotFoundError:
        raise InputError(f"{path}: not found; `git checkout {path}` brings it back") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); `git checkout {path}` brings it back") from None
    return [number(row, f"{path}: line {lines.line_num}") for row in lines]


def number(row: dict[str, str], where: str) -> Number:
    """A row and its lists, which are written `key=value;key=value`."""
    if "" in row or None in row.values() or not row.keys() >= COLUMNS:
        raise InputError(f"{where}: not as many values as columns, or without one of {', '.join(sorted(COLUMNS))}")
    if row["paper"] not in PAPERS or row["split"] not in SPLITS:
        raise InputError(f"{where}: paper is one of {', '.join(PAPERS)}, and split one of {', '.join(SPLITS)}")
    lists = {column: [part.partition("=") for part in row[column].split(";") if part] for column in LISTS}
    for column, found in lists.items():
        if not all(sign for _, sign, _ in found):
            raise InputError(f"{where}: {column} is {row[column]!r}, expected key=value;key=value")
    try:
        float(row["value"])
    except ValueError:
        raise InputError(f"{where}: value is {row['value']!r}, expected a number") from None
    return Number(row, *({key: value for key, _, value in found} for found in lists.values()))


def place(row: dict[str, str]) -> str:
    """Where a number stands: `GLAG, table 2`."""
    return f"{PAPERS[row['paper']]}, {'table ' * row['table'].isdigit()}{row['table']}"


def compare(rows: list[Row], notes: Sequence[str] = ()) -> tuple[Table, list[dict[str, Any]]]:
    """The table of rows that have counterparts, with `notes` below it, and the same for machines.

    Raises
    ------
    InputError
        If none has one.
    """
    numbers = read()
    names = differing(rows)
    lines, records = [], []
    for row in rows:
        for number in sorted(filter(lambda number: counterpart(row, number), numbers), key=order):
            split, theirs = number.row["split"], float(number.row["value"])
            values = row.values(split)
            if not len(values):
                continue
            where = place(number.row)
            remarks = [*flags(row, number), *filter(None, [number.row["note"]])]
            mean, std = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None
            records.append(
                {name: row.parameters.get(name) for name in names}
                | {"head": row.head, "split": split, "mean": round(mean, 4), "std": std and round(std, 4), "n": len(values)}
                | {"published": theirs, "difference": round(mean - theirs, 4), "paper": number.row["paper"], "table": number.row["table"]}
                | {"method": number.row["method"], "remarks": "; ".join(remarks)}
            )
            shown = [*(tables.text(row.parameters.get(name)) for name in names), row.head, split, tables.mean_std(values), str(len(values))]
            shown += [number.row["value"], tables.signed(mean - theirs), where, number.row["method"], "; ".join(remarks)]
            lines.append([Cell(text) for text in shown])
    if not lines:
        known = dict.fromkeys(f"{n.row['data']} {n.row['imbalance']} {n.row['ratio']}".strip() for n in numbers if n.row["head"])
        raise InputError(
            f"{FILE}: has no counterpart of these runs, with their data, loss, mixing, sampler and head; it has {', '.join(known)}"
        )
    columns = [
        *names,
        "head",
        "split",
        "ours",
        "n",
        "theirs",
        "ours − theirs",
        "where",
        "method",
        "ours ≠ theirs (? inferred); remarks",
    ]
    numeric = [False] * (len(names) + 2) + [True] * 4 + [False] * 3
    return Table("test results beside published ones, in percent", columns, numeric, lines, list(notes)), records


def order(number: Number) -> tuple[Any, ...]:
    return number.row["paper"], number.row["table"], SPLITS.index(number.row["split"])


def counterpart(row: Row, number: Number) -> bool:
    """Whether a published number is of the same data, stage one and kind of head."""
    if not number.row["loss"] or not number.row["head"] or number.row["head"] != value(row, "head.kind"):
        return False
    wanted = {key: number.row[column] for key, column in SAME.items() if number.row[column]} | number.parameters
    return all(equal(value(row, key), text) for key, text in wanted.items())


def flags(row: Row, number: Number) -> list[str]:
    """What of ours differs from the protocol of a published number."""
    found = []
    for stated, mark in ((number.protocol, ""), (number.inferred, "?")):
        for key, text in stated.items():
            ours = value(row, key)
            if ours is not None and not equal(ours, text):
                name = key.replace(".", " ") if key.startswith("head.") else key.rsplit(".", 1)[-1]
                found.append(f"{name} {tables.text(ours)} ≠ {text}{mark}")
    if value(row, "data.val") == "reserve":
        found.append(f"{value(row, 'data.val_per_class')} images a class kept from training for validation")
    groups = value(row, "evaluate.many"), value(row, "evaluate.few")
    if number.row["split"] in ("many", "medium", "few") and groups != (100, 20):
        found.append(f"many > {groups[0]}, few < {groups[1]} ≠ 100, 20")
    return found


def value(row: Row, key: str) -> Any:
    """One of our parameters, or else its default; None for what this row does not depend on."""
    name = f"heads.{row.head}.{key.removeprefix('head.')}" if key.startswith("head.") else key
    if name in row.parameters:
        return row.parameters[name]
    section, _, rest = name.partition(".")
    of = {**methods.SECTIONS, "heads": methods.Section(f"heads.{row.head}.kind", "Head")}.get(section)
    method, field = row.parameters.get(of.chosen_by) if of else None, rest.rpartition(".")[2]
    if method is None or (section != "heads" and rest.partition(".")[0] != method) or method not in params.known(section):
        return None
    fields = getattr(params.method(section, method, of.chosen_by), of.model).model_fields
    return fields[field].default if field in fields else None


def equal(ours: Any, text: str) -> bool:
    """Whether a parameter has the value that a text says: as numbers where both are."""
    try:
        return bool(np.isclose(float(tables.text(ours)), float(text)))
    except (TypeError, ValueError):
        return tables.text(ours) == text
