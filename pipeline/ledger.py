"""What was reproduced: data/reproduction/runs.csv, a row for each head of each run."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline import image_level, published
from pipeline.files import InputError, write_csv
from pipeline.locks import alone

FILE = Path("data/reproduction/runs.csv")
LOCK = Path(".cache/reproduction/runs.lock")
FIGURES = ("all", "many", "medium", "few")
KEY = ("cell", "seed", "head")
SECONDS = ("seconds", "train_seconds", "extract_seconds")
NUMBERS = (*FIGURES, "val", *SECONDS)  # or empty
COLUMNS = (*KEY, *FIGURES, "val", "selected_on", "chosen", *SECONDS, "revision", "device")
IMAGES = {f"{kind}_images": kind for kind in image_level.KINDS}  # rows of heads trained over images, and the kind of head that each is
ON_DEMAND = (*IMAGES, published.FULL)
Rows = list[dict[str, str]]


def read() -> Rows:
    """All rows; none before the first run.

    Raises
    ------
    InputError
        If the file is damaged: names the line.
    """
    try:
        lines = csv.reader(FILE.read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise damaged(1, f"not UTF-8 ({error})") from None
    if next(lines, None) != list(COLUMNS):
        raise damaged(1, f"expected the columns {','.join(COLUMNS)}")
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for number, line in enumerate(lines, 2):
        row = dict(zip(COLUMNS, line, strict=False))
        key = tuple(row.get(column, "") for column in KEY)
        if len(line) != len(COLUMNS):
            raise damaged(number, f"{len(line)} values, expected {len(COLUMNS)}")
        if not row["seed"].isdecimal():
            raise damaged(number, f"seed is {row['seed']!r}, expected a whole number")
        for column in NUMBERS:
            if row[column] and not is_number(row[column]):
                raise damaged(number, f"{column} is {row[column]!r}, expected a number or nothing")
        if key in found:
            raise damaged(number, f"a second row of {', '.join(key)}")
        found[key] = row
    return list(found.values())


def damaged(number: int, what: str) -> InputError:
    return InputError(f"{FILE}: line {number}: {what}; correct it, or bring the committed rows back with `git checkout {FILE}`")


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    with suppress(ValueError):
        return math.isfinite(float(text))
    return False


def keep(cell: str, seed: int, new: list[dict[str, Any]], others: Sequence[str] = ()) -> None:
    """Put rows of a cell and seed in the place of those that are there, of which those made on demand stay until they are made again.

    others : heads whose rows stay likewise, in the order that the rows shall have
    """
    with alone(LOCK):
        spared = {*ON_DEMAND, *others} - {row["head"] for row in new}
        old = [row for row in read() if (row["cell"], row["seed"]) != (cell, str(seed)) or row["head"] in spared]
        rows = [{column: row[column] for column in COLUMNS} for row in (*new, *old)]
        place = {(cell, str(seed), head): number for number, head in enumerate([*others, *ON_DEMAND] if others else ())}
        write_csv(FILE, sorted(rows, key=lambda row: (row["cell"], int(row["seed"]), place.get(tuple(str(row[key]) for key in KEY), 0))))
