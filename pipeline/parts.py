"""Which of somebody's features are training, validation and test images: as their file says, or cut from each class here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.arrays import Array
from pipeline.files import InputError
from pipeline.sampling import by_class

SPLITS = ("train", "val", "test")
PARTED = [f"{split}_{what}" for split in SPLITS for what in ("features", "labels")]
NAMES = {name: () for name in ("features", "labels", "split", "classes")}  # arrays, and what else they may be called in HDF5
NAMES |= {name: (f"classifier/{name}",) for name in ("weight", "bias")} | {name: (name.replace("_", "/"),) for name in PARTED}
RENUMBER = "number the classes from 0 on without gaps, as np.unique(labels, return_inverse=True)[1] does"
LIMIT = 1_000_000  # classes; a larger label is an identifier or a slip, and would ask for as many counts


class Part(NamedTuple):
    """One split: features (m, d), which of their rows belong to it (m,) bool (None: all), and the labels of these (n,) int64."""

    features: Array
    chosen: np.ndarray | None
    labels: np.ndarray


class Shares(NamedTuple):
    """Shares of each class to set aside for test and validation, and the seed that chooses the images."""

    test: float
    val: float
    seed: int


def has_split(arrays: dict[str, Array]) -> bool:
    """Whether the arrays say which images are test images."""
    return "split" in arrays or any(name in arrays for name in PARTED)


def parts(source: str, arrays: dict[str, Array], shares: Shares) -> dict[str, Part]:
    """The splits in the order train, val, test; val only where there is one. Labels are checked, features are not read yet.

    Parameters
    ----------
    source : the file, for messages
    shares : used where the arrays do not say which images are test images

    Raises
    ------
    InputError
        One line with file and array: missing, of a wrong shape or type, a negative label, an unknown word, a split without images.
    """
    divided = [name for name in PARTED if name in arrays]
    whole = [name for name in ("features", "labels", "split") if name in arrays]
    if divided and whole:
        raise InputError(f"{source}: holds {divided[0]} and {whole[0]}: keep either the arrays of each split or those of all images")
    splits = [split for split in SPLITS if split != "val" or "val_features" in divided or "val_labels" in divided]
    for name in [f"{split}_{what}" for split in splits for what in ("features", "labels")] if divided else ["features", "labels"]:
        if name not in arrays:
            raise InputError(
                f"{source}: {name}: missing; found {', '.join(arrays) or 'no array of a known name'} (--help says what is known)"
            )
    if divided:
        pairs = {split: (matrix(arrays[f"{split}_features"]), arrays[f"{split}_labels"]) for split in splits}
        found = {split: Part(features, None, labels(given, features)) for split, (features, given) in pairs.items()}
    else:
        found = _of_whole(arrays, shares)
    dim = found["train"].features.shape[1]
    for part in found.values():
        if part.features.shape[1] != dim:
            raise InputError(
                f"{part.features.where}: shape {part.features.shape}, expected (n, {dim}) as in {found['train'].features.where}"
            )
    return found


def matrix(array: Array) -> Array:
    """The array itself, where it is (n, d) of floating point."""
    if len(array.shape) != 2 or 0 in array.shape:
        raise InputError(f"{array.where}: shape {array.shape}, expected (n, d), with a row for each image")
    if array.dtype.kind != "f":
        raise InputError(
            f"{array.where}: {array.dtype}, expected float16, float32 or float64; convert it first (bfloat16 and integers to float32)"
        )
    return array


def labels(array: Array, features: Array) -> np.ndarray:
    """Labels (n,) int64, one for each row of features, none negative."""
    if array.shape != features.shape[:1]:
        raise InputError(f"{array.where}: shape {array.shape}, expected {features.shape[:1]}, a label for each row of {features.where}")
    if array.dtype.kind not in "iu":
        raise InputError(f"{array.where}: {array.dtype}, expected integers; {RENUMBER}")
    values = array.read()
    if values.min() < 0:
        raise InputError(f"{array.where}: {values.min()} in row {int(values.argmin())}, expected 0 or more; {RENUMBER}")
    if values.max() >= LIMIT:
        raise InputError(f"{array.where}: {values.max()} in row {int(values.argmax())}, too large for a class; {RENUMBER}")
    return values.astype(np.int64)


def class_number(arrays: dict[str, Array], found: dict[str, Part]) -> int:
    """How many classes there are: what `classes` says, else the largest label + 1."""
    largest, images = max(int(part.labels.max()) for part in found.values()), sum(len(part.labels) for part in found.values())
    if "classes" not in arrays:
        if largest >= images:
            raise InputError(f"{found['train'].features.where}: {images:,} images with labels up to {largest:,}; {RENUMBER}")
        return largest + 1
    array = arrays["classes"]
    if array.shape != () or array.dtype.kind not in "iu" or not largest < array.read() <= LIMIT:
        raise InputError(f"{array.where}: expected one integer, from {largest + 1} (largest label + 1) to {LIMIT:,}")
    return int(array.read())


def _of_whole(arrays: dict[str, Array], shares: Shares) -> dict[str, Part]:
    features = matrix(arrays["features"])
    values = labels(arrays["labels"], features)
    words = _words(arrays["split"], features) if "split" in arrays else cut(values, shares)
    masks = {split: words == split for split in SPLITS}
    for split in ("train", "test"):
        if masks[split].any():
            continue
        if "split" in arrays:
            raise InputError(f"{arrays['split'].where}: no image is {split!r}; without the array `split` a test set is cut from each class")
        raise InputError(f"{arrays['labels'].where}: no class has two images, so no test set can be cut; give an array `split`")
    return {split: Part(features, mask, values[mask]) for split, mask in masks.items() if mask.any()}


def _words(array: Array, features: Array) -> np.ndarray:
    if array.shape != features.shape[:1]:
        raise InputError(f"{array.where}: shape {array.shape}, expected {features.shape[:1]}, a word for each row of {features.where}")
    words = array.read()
    if words.dtype.kind == "S":
        words = np.char.decode(words, "ascii", "replace")
    if words.dtype.kind != "U":
        raise InputError(f"{array.where}: {array.dtype}, expected the words train, val and test")
    known = np.isin(words, SPLITS)
    if not known.all():
        row = int(known.argmin())
        raise InputError(f"{array.where}: {str(words[row])!r} in row {row}, expected train, val or test")
    return words


def cut(labels: np.ndarray, shares: Shares) -> np.ndarray:
    """Set shares of each class aside: (n,) words. Of a class of two or more images at least one is for test, and at least one for training.

    Where there is a share for validation, a class that can spare an image gives at least one.
    """
    words, generator = np.full(len(labels), "train"), np.random.default_rng(shares.seed)
    for rows in by_class(np.unique(labels, return_inverse=True)[1]):
        shuffled = generator.permutation(rows)
        spare = len(rows) - 1
        for split, share in (("test", shares.test), ("val", shares.val)):
            take = min(max(int(share * len(rows) + 0.5), 1), spare) if share else 0
            words[shuffled[:take]] = split
            shuffled, spare = shuffled[take:], spare - take
    return words
