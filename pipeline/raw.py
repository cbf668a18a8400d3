"""What data set modules hand to `prepare`, raw images that are read only when asked for, and the reader that both CIFARs share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.files import InputError

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # for both sets, in all the reference codes
CIFAR_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class RawSplit:
    """One split as the data set's authors publish it.

    labels : (n,) int64, class of each image
    read : takes k indices, gives their pixels, (k, h, w, channels) uint8
    paths : (n,) the images' files, relative to `data.root`, where images.h5 is to keep these instead of pixels
    places : (n,) each image's place in the published set, where a module has split or reordered it
    """

    labels: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]
    paths: np.ndarray | None = None
    places: np.ndarray | None = None

    @classmethod
    def of_arrays(cls, images: np.ndarray, labels: np.ndarray, places: np.ndarray | None = None) -> RawSplit:
        """A split that is in memory already: images (n, h, w, channels) uint8, labels (n,)."""
        return cls(np.asarray(labels, np.int64), images.__getitem__, None, places)


@dataclass(frozen=True)
class RawData:
    """A data set before the long tail is cut.

    names : the classes' names, in class order
    image_size : side of the square that the network sees, in pixels; stored images may be larger (evaluation crops their centre)
    mean, std : per channel, fractions of full brightness, for normalisation; None where `prepare` is to measure them
    """

    train: RawSplit
    test: RawSplit
    val: RawSplit | None
    names: list[str]
    image_size: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read_cifar(root: Path, folder: str, train: list[str], test: str, label_bytes: int, torchvision_name: str, names: list[str]) -> RawData:
    """Read CIFAR-10 or CIFAR-100 from the official binary layout in `root`, or else through torchvision, which downloads it there.

    Parameters
    ----------
    folder, train, test : the binary layout's folder and its files
    label_bytes : bytes before the pixels of a record; the last of them is the class
    torchvision_name : class of torchvision.datasets, which checks the files' MD5 sums before it unpickles them

    Raises
    ------
    InputError
        If neither layout is there and nothing can be downloaded, or a file is damaged.
    """
    if (root / folder).is_dir():
        parts = [_records(root / folder / name, label_bytes, len(names)) for name in train]
        images, labels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        splits = RawSplit.of_arrays(images, labels), RawSplit.of_arrays(*_records(root / folder / test, label_bytes, len(names)))
    else:
        splits = tuple(_from_torchvision(root, folder, torchvision_name, training) for training in (True, False))
    return RawData(*splits, None, names, 32, CIFAR_MEAN, CIFAR_STD)


def _records(path: Path, label_bytes: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) and labels (n,) of one file of fixed-size records: label bytes, then the pixels, channel first."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); it belongs to the binary layout of {path.parent.name}") from None
    length = label_bytes + CIFAR_PIXELS
    if len(content) == 0 or len(content) % length:
        raise InputError(f"{path}: {len(content):,} bytes are not whole records of {length:,}: truncated or foreign")
    records = content.reshape(-1, length)
    labels = records[:, label_bytes - 1].astype(np.int64)
    if labels.max() >= classes:
        raise InputError(f"{path}: has a label {labels.max()}, expected 0 to {classes - 1}: another format")
    return records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _from_torchvision(root: Path, folder: str, name: str, training: bool) -> RawSplit:
    import torchvision

    try:
        data = getattr(torchvision.datasets, name)(root, train=training, download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{root}: holds neither {folder}/ (the official binary files) nor torchvision's {name} files, and the download "
            f"failed ({error}); set data.root in params.yaml"
        ) from None
    return RawSplit.of_arrays(data.data, np.asarray(data.targets))
