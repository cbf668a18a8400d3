"""The cells of the papers' tables as parameters: data/reproduction/cells.yaml put on top of params.yaml.

A cell is called DATA-RATIO/RECIPE/METHOD, as in `cifar100-lt-100/autoaugment/graloss`, and has a name in each of the file's lists. In
`cifar100-lt-100/autoaugment/ce+graloss` heads see the features of both cells' networks.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from pipeline import params
from pipeline.files import InputError

FILE = Path("data/reproduction/cells.yaml")
WHOLE = ("backbone", "heads", "ensembles")  # whose options are those of a family, or whose names are the user's


def networks(cell: str) -> list[str]:
    """The cells whose features a cell puts side by side: DATA-RATIO/RECIPE/ONE and …/TWO for DATA-RATIO/RECIPE/ONE+TWO; itself for one."""
    where, _, methods = cell.rpartition("/")
    return [f"{where}/{method}" for method in dict.fromkeys(methods.split("+"))]


def compose(cell: str, seed: int, root: str, cells: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """All parameters of a cell: `tree` with what `cells` changes; all three seeds but that of the images are `seed`.

    The images stay those of the papers (`seed.subset: 0`), which compare methods on one subset.

    Raises
    ------
    InputError
        If the cell's name has other parts than DATA-RATIO/RECIPE/METHOD; the line lists what there is.
    """
    where, _, rest = cell.partition("/")
    recipe, _, method = rest.partition("/")
    data, _, ratio = where.rpartition("-")
    parts = {"data": data, "recipes": recipe, "methods": method}
    for section, name in parts.items():
        if name not in cells[section]:
            what = f"{section}: no {name or 'name'!r} for {cell!r}, which should be DATA-RATIO/RECIPE/METHOD"
            raise InputError(f"{FILE}: {what}; known: {', '.join(cells[section])}")
    try:
        number = float(ratio)
    except ValueError:
        raise InputError(f"{FILE}: {cell}: expected a ratio behind {data}-, got {ratio!r}") from None
    merged = copy.deepcopy(tree)
    for change in (cells["common"], *(cells[section][name] for section, name in parts.items())):
        merge(merged, change)
    merge(merged, {"data": {"root": root, "ratio": int(number) if number.is_integer() else number}})
    merge(merged, {"seed": {"subset": 0, "train": seed, "heads": seed}, "features": "data/features.h5"})
    merge(merged, {"heads": cells["heads"]})
    return merged


def full(tree: dict[str, Any], cells: dict[str, Any]) -> dict[str, Any]:
    """The same parameters for a classifier on the whole training set: those of a cell's backbone, with the section `full` on top."""
    merged = copy.deepcopy(tree)
    merge(merged, cells["full"])
    return merged


def merge(tree: dict[str, Any], change: dict[str, Any]) -> None:
    """Put `change` on top of `tree`, leaf by leaf; what is in WHOLE as a whole."""
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict) and key not in WHOLE:
            merge(tree[key], value)
        else:
            tree[key] = copy.deepcopy(value)


def read() -> dict[str, Any]:
    """cells.yaml."""
    return params.read(FILE)
