"""Backbones of finished cells, stored in the repository: a clone fits and judges heads on them, and need not train for hours first.

data/reproduction/backbones/CELL/seed-N.safetensors is the very file that training wrote, and seed-N.json says what with, at which commit,
on which device and for how long.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pipeline import backbone, finished, images
from pipeline.files import InputError, read_json, replacing, write_json

FOLDER = Path("data/reproduction/backbones")


def file(cell: str, seed: int) -> Path:
    """Where a cell's backbone is stored, if it is."""
    return FOLDER / cell / f"seed-{seed}.safetensors"


def every() -> list[tuple[str, int]]:
    """Cell and seed of each stored backbone."""
    files = [path.relative_to(FOLDER) for path in FOLDER.rglob("seed-*.safetensors")]
    return sorted((path.parent.as_posix(), int(path.stem.removeprefix("seed-"))) for path in files)


def store(cell: str, seed: int, folder: Path, parameters: dict[str, Any]) -> Path:
    """Store the backbone that was trained in a folder; `parameters` are those of its training.

    Raises
    ------
    InputError
        If its training has not ended.
    """
    for made in (images.FILE, backbone.FILE):
        if not (folder / made).exists():
            raise InputError(f"reproduce: {folder / made}: not there yet; `python -m pipeline.reproduce run {cell}` makes it")
    target = file(cell, seed)
    with replacing(target) as temporary:
        shutil.copyfile(folder / backbone.FILE, temporary)
    about = {**finished.about(folder), "train_seconds": finished.seconds(folder).get("train"), "parameters": parameters}
    write_json(target.with_suffix(".json"), about)
    return target


def fetch(source: Path, folder: Path, parameters: dict[str, Any]) -> bool:
    """Put a stored backbone and its notes into a cell's folder.

    Returns
    -------
    whether there was one, of these parameters
    """
    notes = source.with_suffix(".json")
    if not (source.exists() and notes.exists()):
        return False
    about = read_json(notes, f"`git checkout {notes}` brings it back")
    if about.pop("parameters", None) != parameters:
        return False
    finished.note(folder, about)
    with replacing(folder / backbone.FILE, beside=True) as temporary:
        shutil.copyfile(source, temporary)
    return True
