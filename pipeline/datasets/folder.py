"""A folder of one's own images: `train/`, `test/` and, for `data.val: official`, `val/`, each with one folder a class.

Images may have any size and any mode that Pillow reads. Each is turned upright (EXIF), converted to RGB, resized so that its shorter side
is 8/7 of `image_size` (256 for 224) and cropped to the central square; training crops from that square, evaluation takes its centre.
Classes are the folders below `train/`, by name. Hidden files and folders and what file managers leave behind are passed over; anything else
has to be an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from pipeline.files import InputError
from pipeline.images import decode
from pipeline.params import Params
from pipeline.raw import RawData, RawSplit

LITTER = {"thumbs.db", "desktop.ini", "__macosx"}


class Dataset(Params):
    """Parameters of a folder.

    image_size : side of the square that the network sees, in pixels
    store : `pixels` copies the resized images into images.h5; `paths` leaves them where they are and decodes them again in every epoch,
        for sets that are too large to copy (ImageNet-LT would be 27 GB)
    """

    image_size: int = Field(224, ge=8)
    store: Literal["pixels", "paths"] = "pixels"

    def read(self, root: Path, seed: int) -> RawData:
        """List the files; pixels are decoded when asked for.

        Raises
        ------
        InputError
            If a folder is missing, a class's name is not UTF-8, a class holds a link to a folder, or `val/` or `test/` has a class that
            `train/` lacks.
        """
        names = sorted(entry.name for entry in _folders(root / "train"))
        if not names:
            raise InputError(f"{root / 'train'}: holds no class folder")
        for name in names:
            if name.encode("utf-8", "replace") != name.encode("utf-8", "surrogateescape"):
                raise InputError(f"{root / 'train' / name}: the folder's name, which is the class's, is not UTF-8; rename it")
        splits = {name: self._split(root, name, names) for name in ("train", "test", "val") if name != "val" or (root / "val").is_dir()}
        return RawData(splits["train"], splits["test"], splits.get("val"), names, self.image_size)

    def _split(self, root: Path, split: str, names: list[str]) -> RawSplit:
        files, labels = [], []
        for folder in _folders(root / split):
            if folder.name not in names:
                raise InputError(f"{folder}: no such class in {root / 'train'}")
            inside = sorted(_files(folder))
            files += [file.relative_to(root).as_posix() for file in inside]
            labels += [names.index(folder.name)] * len(inside)
        if not files:
            raise InputError(f"{root / split}: holds no image")
        paths, side = np.array(files), round(self.image_size * 8 / 7)
        return RawSplit(np.array(labels), lambda rows: decode(root, paths[rows], side), paths if self.store == "paths" else None)


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; set data.root in params.yaml to a folder with train/, test/ and perhaps val/")
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not _litter(Path(entry.name)))


def _files(folder: Path) -> Iterator[Path]:
    """All that has to be an image, also in folders within the folder."""
    for entry in folder.rglob("*"):
        if _litter(entry.relative_to(folder)):
            continue
        if not entry.is_dir():
            yield entry
        elif entry.is_symlink():
            raise InputError(f"{entry}: a link to a folder, which is not followed; put the folder itself there, or links to its files")


def _litter(path: Path) -> bool:
    return any(part.startswith(".") or part.lower() in LITTER for part in path.parts)
