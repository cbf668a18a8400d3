"""The cells of the papers' tables as parameters, from data/reproduction/cells.yaml.

A cell is called DATA-RATIO/RECIPE/METHOD, as in `cifar100-lt-100/autoaugment/graloss`, and has a name in each of the file's lists. In
`cifar100-lt-100/autoaugment/ce+graloss` heads see the features of both cells' networks, in `…/ce+ce` those of two seeds.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pipeline import check, params
from pipeline.files import InputError

FILE = Path("data/reproduction/cells.yaml")
WHOLE = ("backbone", "heads", "ensembles")  # whose options are those of a family, or whose names are the user's
Tree = dict[str, Any]


class Cells(params.Params):
    """The file's sections.

    common : parameters of all cells, sections as those of params.yaml
    data, recipes, methods : by name what each changes in them
    heads : those of every cell; variants : by cell and head, changes of that head by name, each of which is a head more
    full : what changes for a classifier on the whole training set
    """

    common: Tree
    data: dict[str, Tree]
    recipes: dict[str, Tree]
    methods: dict[str, Tree]
    heads: dict[str, Tree]
    variants: dict[str, dict[str, dict[str, Tree]]] = Field(default_factory=dict)
    full: Tree

    def heads_of(self, cell: str) -> dict[str, Tree]:
        """The heads of every cell, and this cell's variants of them, called HEAD-VARIANT."""
        varied = self.variants.get(cell, {}).items()
        more = {f"{head}-{name}": {**self.heads[head], **change} for head, changes in varied for name, change in changes.items()}
        return {**self.heads, **more}


def networks(cell: str, seed: int = 0) -> list[tuple[str, int]]:
    """The networks whose features a cell puts side by side, each a cell and a seed: DATA-RATIO/RECIPE/ONE and …/TWO of its own seed for
    DATA-RATIO/RECIPE/ONE+TWO, itself for one.

    A method that is there k times is k trainings of it, of the seeds from k seed on, so that no two seeds of a cell share a network.
    """
    where, _, rest = cell.rpartition("/")
    methods = rest.split("+")
    return [(f"{where}/{one}", methods.count(one) * seed + methods[:place].count(one)) for place, one in enumerate(methods)]


def named(cell: str) -> str:
    """A cell by its one name: methods joined by `+` in alphabetical order."""
    where, slash, rest = cell.rpartition("/")
    return f"{where}{slash}{'+'.join(sorted(rest.split('+')))}"


def compose(cell: str, seed: int, root: str, cells: Cells) -> Tree:
    """All parameters of a cell of one network; all three seeds but that of the images are `seed`.

    The images stay those of the papers (`seed.subset: 0`), which compare methods on one subset.

    Raises
    ------
    InputError
        If the cell's name has other parts than DATA-RATIO/RECIPE/METHOD (the line lists what there is), or a parameter is refused.
    """
    merged = copy.deepcopy(cells.common)
    names, ratio = parts(cell, cells)
    for section, name in names.items():
        merge(merged, getattr(cells, section)[name])
    merge(merged, {"data": {"root": root, "ratio": ratio}})
    merge(merged, {"seed": {"subset": 0, "train": seed, "heads": seed}, "features": "data/features.h5", "heads": cells.heads_of(cell)})
    return checked(merged, cell)


def parts(cell: str, cells: Cells) -> tuple[dict[str, str], float]:
    """A cell's name in each section, and its ratio; raises as `compose` does."""
    where, _, rest = cell.partition("/")
    recipe, _, method = rest.partition("/")
    data, _, ratio = where.rpartition("-")
    names = {"data": data, "recipes": recipe, "methods": method}
    for section, name in names.items():
        known = getattr(cells, section)
        if name not in known:
            what = f"{section}: no {name or 'name'!r} for {cell!r}, which should be DATA-RATIO/RECIPE/METHOD"
            raise InputError(f"{FILE}: {what}; known: {', '.join(known)}")
    return names, number(ratio, cell)


def full(tree: Tree, cell: str, cells: Cells) -> Tree:
    """The same parameters for a classifier on the whole training set: those of a cell's backbone, with the section `full` on top."""
    merged = copy.deepcopy(tree)
    merge(merged, cells.full)
    return checked(merged, cell)


def number(ratio: str, cell: str) -> float:
    """A ratio, as a whole number where it is one, in the one spelling that it has, so that no cell has two names."""
    try:
        value = float(ratio)
    except ValueError:
        value = float("nan")
    if not 1 <= value < float("inf") or f"{value:g}" != ratio:
        raise InputError(f"{FILE}: {cell}: expected a ratio, 1 or more, behind the data's name, such as 100, got {ratio!r}")
    return int(value) if value.is_integer() else value


def checked(tree: Tree, cell: str) -> Tree:
    """The tree, where no stage will refuse it, with the defaults that are read from it here."""
    try:
        check.check(tree)
    except InputError as error:
        raise InputError(str(error).replace(params.FILE.as_posix(), f"{FILE}: {cell}", 1)) from None
    tree["train"].setdefault("compile", False)
    tree["evaluate"].setdefault("ensembles", {})
    return tree


def merge(tree: Tree, change: Tree) -> None:
    """Put `change` on top of `tree`, leaf by leaf; what is in WHOLE as a whole."""
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict) and key not in WHOLE:
            merge(tree[key], value)
        else:
            tree[key] = copy.deepcopy(value)


def read() -> Cells:
    """cells.yaml.

    Raises
    ------
    InputError
        If it is missing, a section is missing or is no mapping of names, or `variants` names a cell or head that there is not.
    """
    try:
        found = Cells.model_validate(params.read(FILE))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{FILE}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not isinstance(found.full.get("heads"), dict):
        raise InputError(f"{FILE}: full.heads: expected a mapping of names")
    for cell, varied in found.variants.items():
        parts(cell, found)
        for head in set(varied) - set(found.heads):
            raise InputError(f"{FILE}: variants.{cell}.{head}: no head of that name in the section heads")
    return found
