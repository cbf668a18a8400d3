"""images.h5: the long-tailed training images and the balanced validation and test images.

Layout: `/train`, `/val` (where there is one) and `/test`, each with `images (n, h, w, channels) u1` or, for sets too large to copy,
`paths (n,)` relative to `data.root`; `labels (n,) i8`, `index (n,) i8` (place in the raw set). Root attributes: `schema`, `classes`,
`class_counts`, `names`, `mean`, `std`, `image_size`, `protocol`, and with paths `side` (pixels) and `content` (a hash of all pixels). Data
sets are contiguous, so readers map them instead of loading them: memory does not grow with the number of images.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from pipeline import params
from pipeline.files import InputError, in_a_line

if TYPE_CHECKING:
    from PIL import Image

FILE = Path("data/images.h5")
SCHEMA = "tailcache-images-1"


class ImageFiles:
    """Images that stay in their files: indexing decodes, so it stands in for an array (n, side, side, 3) uint8."""

    def __init__(self, root: Path, paths: np.ndarray, side: int) -> None:
        self.root, self.paths, self.shape = root, paths, (len(paths), side, side, 3)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        return decode(self.root, self.paths[rows], self.shape[1])


@dataclass(frozen=True)
class Images:
    """One split: images (n, h, w, channels) uint8, mapped from the file or decoded when indexed; labels (n,) int64."""

    images: np.ndarray | ImageFiles
    labels: np.ndarray


@dataclass(frozen=True)
class ImageSet:
    """All of images.h5; `mean` and `std` (channels,) are fractions of full brightness, `image_size` is in pixels."""

    train: Images
    val: Images | None
    test: Images
    class_counts: np.ndarray  # (c,)
    names: list[str]
    mean: np.ndarray
    std: np.ndarray
    image_size: int
    name: str = "images"  # of the data set

    @property
    def channels(self) -> int:
        return self.train.images.shape[3]

    @property
    def classes(self) -> int:
        return len(self.class_counts)

    @property
    def about(self) -> str:
        """What a stage's first line says of the data."""
        return f"{self.name}, {self.classes} classes, {len(self.train.labels):,} training images"


def load(path: Path = FILE) -> ImageSet:
    """Open images.h5; where it holds paths, the images are looked for in `data.root` of params.yaml.

    Raises
    ------
    InputError
        If the file is missing, is no HDF5 or of another schema, or lacks a part.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("schema") != SCHEMA:
                raise InputError(f"{path}: schema is {file.attrs.get('schema', 'missing')!r}, expected {SCHEMA!r}; run `dvc repro`")
            splits = {name: Images(_pixels(path, file[name]), file[name]["labels"][:]) for name in file}
            return ImageSet(
                train=splits["train"],
                val=splits.get("val"),
                test=splits["test"],
                class_counts=file.attrs["class_counts"],
                names=list(file.attrs["names"]),
                mean=file.attrs["mean"],
                std=file.attrs["std"],
                image_size=int(file.attrs["image_size"]),
                name=json.loads(file.attrs["protocol"])["name"],
            )
    except FileNotFoundError:
        raise InputError(f"{path}: not found; run `dvc repro prepare` first") from None
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a complete images file ({in_a_line(error)}); run `dvc repro --force prepare`") from None


def _pixels(path: Path, group: h5py.Group) -> np.ndarray | ImageFiles:
    """Map one split's pixels (HDF5 tells where its contiguous block starts), or point to its files."""
    if "paths" in group:
        root = Path(params.at(params.read(), "data.root"))
        return ImageFiles(root, np.char.decode(group["paths"][:], "utf-8", "surrogateescape"), int(group.file.attrs["side"]))
    images = group["images"]
    return np.memmap(path, "u1", "r", offset=images.id.get_offset(), shape=images.shape)


def decode(root: Path, paths: np.ndarray, side: int) -> np.ndarray:
    """Read images, several at a time: upright, RGB, shorter side `side`, central square; (k, side, side, 3) uint8.

    Raises
    ------
    InputError
        Naming the first file that is missing, truncated or no image.
    """
    from PIL import Image, ImageOps

    def one(name: str) -> np.ndarray:
        try:
            with Image.open(root / name) as image:
                _turn_upright(image)
                upright = _eight_bit(image).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{root / name}: not an image that can be read: {error}") from None
        return np.asarray(ImageOps.fit(upright, (side, side), Image.Resampling.BICUBIC))

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(one, paths)))


def _turn_upright(image: Image.Image) -> None:
    """Turn a picture as its EXIF orientation says. Pillow then writes all tags anew, and fails on odd ones: the others go first."""
    from PIL import ExifTags, ImageOps

    exif = image.getexif()
    for tag in set(exif) - {ExifTags.Base.Orientation}:
        del exif[tag]
    ImageOps.exif_transpose(image, in_place=True)


def _eight_bit(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits a pixel brought to 8, which Pillow's own conversion would clip to white; others as they are."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("its pixels have more than 16 bits")
    return Image.fromarray((pixels // 257).astype(np.uint8))
