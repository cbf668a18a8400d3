"""Stage `prepare`: raw images to a long-tailed training set with balanced validation and test sets (data/images.h5).

Order of events: validation images are set aside first (`val: reserve`) or taken from what the tail left out (`val: unused`), the tail
is cut by `seed.subset`, and the chosen places in the raw set are stored beside the pixels.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from pydantic import Field

from pipeline import longtail, params, progress
from pipeline.files import InputError, attributes_of, interruptible, replacing, takes_no_arguments
from pipeline.images import FILE, SCHEMA
from pipeline.raw import RawData, RawSplit

BLOCK = 512  # images read, measured and written at a time


class Data(params.Params):
    """The `data` section.

    name : a module of pipeline/datasets
    root : folder of the raw files
    imbalance : `exponential` or `step` (pipeline/longtail.py), or `natural`: every training image as it is
    ratio : largest class over smallest; not used by `natural`
    val : `official` (the data set's own), `reserve` (`val_per_class` of every class set aside before the tail is cut), `unused` (up to
        `val_per_class` of each class from training images that the tail left out, so that the training set stays whole) or `none`
    """

    name: str
    root: str
    imbalance: Literal["exponential", "step", "natural"]
    ratio: float = Field(ge=1)
    val: Literal["official", "reserve", "unused", "none"]
    val_per_class: int = Field(ge=1)


@interruptible("prepare: stopped, nothing is written; run it again")
def main() -> None:
    tree = params.read()
    data, dataset = read_params(tree)
    seed = params.seed(tree, "subset")
    raw = dataset.read(Path(data.root), seed)
    train, val = split(raw, data, seed)
    test = raw.test, np.arange(len(raw.test.labels))
    write(FILE, raw, {"train": (raw.train, train), "val": val, "test": test}, protocol(data, raw, val, seed))
    counts = np.bincount(raw.train.labels[train])
    print(
        f"prepare: {data.name}, {len(raw.names)} classes: {len(train):,} training images ({counts.max():,} in the largest class, "
        f"{counts.min():,} in the smallest), {0 if val is None else len(val[1]):,} validation, {len(raw.test.labels):,} test -> {FILE}"
    )


def read_params(tree: dict[str, Any]) -> tuple[Data, Any]:
    """Check the sections `data` and `datasets.NAME`."""
    data = params.section(tree, "data", Data)
    return data, params.of_method(tree, "datasets", data.name, "data.name", "Dataset")


def split(raw: RawData, data: Data, seed: int) -> tuple[np.ndarray, tuple[RawSplit, np.ndarray] | None]:
    """Choose training and validation images.

    Returns
    -------
    train : indices into `raw.train`
    val : the raw split that validation images come from and indices into it; None without validation

    Raises
    ------
    InputError
        If a class is left without a training image, or the validation set asked for cannot be had.
    """
    labels, classes = raw.train.labels, len(raw.names)
    _every_class(np.bincount(labels, minlength=classes), raw.names, f"{data.root}: the training set has no image of")
    pool = np.arange(len(labels))
    reserved = pool[:0]
    if data.val == "reserve":
        order = np.random.default_rng([seed, 2]).permutation(len(labels))
        reserved = np.sort(longtail.take_each(labels, order, data.val_per_class))
        pool = np.setdiff1d(pool, reserved)
        left = np.bincount(labels[pool], minlength=classes)
        _every_class(left, raw.names, f"params.yaml: data.val_per_class: {data.val_per_class} leaves no training image of")

    available = np.bincount(labels[pool], minlength=classes)
    if data.imbalance == "natural":
        counts = available
    else:
        counts = longtail.class_counts(data.imbalance, int(available.min()), data.ratio, classes)
        _every_class(counts, raw.names, f"params.yaml: data.ratio: {data.ratio:g} leaves no training image of")
    chosen, left_over = longtail.cut(labels[pool], counts, seed)
    train, left_over = pool[chosen], pool[left_over]

    if data.val == "none":
        return train, None
    if data.val == "official":
        if raw.val is None:
            raise InputError(f"params.yaml: data.val: {data.name} has no validation set of its own; use reserve, unused or none")
        return train, (raw.val, np.arange(len(raw.val.labels)))
    val = reserved if data.val == "reserve" else longtail.take_each(labels, left_over, data.val_per_class)
    if len(val) == 0:
        raise InputError("params.yaml: data.val: the tail leaves no unused image; use reserve, official or none")
    return train, (raw.train, val)


def protocol(data: Data, raw: RawData, val: tuple[RawSplit, np.ndarray] | None, seed: int) -> str:
    """How the splits came about, as JSON: the `data` section without the place, the seed, and the classes that `val` lacks."""
    counts = np.zeros(len(raw.names)) if val is None else np.bincount(val[0].labels[val[1]], minlength=len(raw.names))
    without_val = np.flatnonzero(counts == 0).tolist()
    return json.dumps({**data.model_dump(exclude={"root"}), "seed": seed, "classes_without_val": without_val})


def _every_class(counts: np.ndarray, names: list[str], problem: str) -> None:
    empty = [names[k] for k in np.flatnonzero(counts == 0)]
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise InputError(f"{problem} class {', '.join(empty[:3])}{more}")


def write(path: Path, raw: RawData, chosen: dict[str, tuple[RawSplit, np.ndarray] | None], protocol: str) -> None:
    """Write images.h5: splits in the order train, val, test, then the attributes; in memory is never more than one block of images.

    Every image is read, also where only its path is kept: a damaged one is found here and not hours later, and a hash of what was read
    (`content`) makes images.h5 another file when an image changes.
    """
    brightness, content = Brightness(), hashlib.sha256()
    with replacing(path) as temporary, h5py.File(temporary, "w", **attributes_of(len(raw.names))) as file:
        for name, (source, index) in ((name, pair) for name, pair in chosen.items() if pair is not None):
            group, pixels = file.create_group(name), None
            for start in progress.bar(range(0, len(index), BLOCK), f"prepare {name}", "block"):
                block = source.read(index[start : start + BLOCK])
                if name == "train":
                    brightness.add(block)
                if source.paths is not None:
                    content.update(block)
                    continue
                if pixels is None:
                    pixels = group.create_dataset("images", (len(index), *block.shape[1:]), "u1")
                pixels[start : start + len(block)] = block
            if source.paths is not None:
                group["paths"] = np.char.encode(source.paths[index], "utf-8", "surrogateescape")
            group["labels"] = source.labels[index]
            group["index"] = index if source.places is None else source.places[index]

        mean, std = (raw.mean, raw.std) if raw.mean is not None else brightness.statistics()
        _, train = chosen["train"]
        file.attrs["schema"] = SCHEMA
        file.attrs["classes"] = len(raw.names)
        file.attrs["class_counts"] = np.bincount(raw.train.labels[train], minlength=len(raw.names))
        file.attrs["names"] = raw.names
        file.attrs["mean"] = np.asarray(mean, np.float64)
        file.attrs["std"] = np.asarray(std, np.float64)
        file.attrs["image_size"] = raw.image_size
        file.attrs["protocol"] = protocol
        if raw.train.paths is not None:
            file.attrs["side"] = block.shape[1]
            file.attrs["content"] = content.hexdigest()


class Brightness:
    """Mean and standard deviation of each channel over all pixels added, as fractions of full brightness."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, block: np.ndarray) -> None:
        """Take in images (k, h, w, channels) uint8."""
        pixels = block.reshape(-1, block.shape[-1]) / 255.0
        self.count += len(pixels)
        self.total = self.total + pixels.sum(0)
        self.squares = self.squares + (pixels**2).sum(0)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, each (channels,)."""
        mean = self.total / self.count
        return mean, np.sqrt(np.maximum(self.squares / self.count - mean**2, 1e-12))


if __name__ == "__main__":
    takes_no_arguments(__doc__)
    main()
