"""The arrays in a .npz, .npy or HDF5 file that somebody else wrote, by name. Nothing is ever unpickled; large ones are read in slices."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from pipeline.files import InputError, in_a_line

BROKEN = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)  # what NumPy and h5py raise


class Array(NamedTuple):
    """where : file and name, for messages (`clip.npz: labels`); values : anything with `shape` and `dtype` that gives arrays by slices."""

    where: str
    values: np.ndarray | h5py.Dataset

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape or ()  # None, of an empty HDF5 data set, is no shape of ours either

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype

    def read(self, rows: slice = slice(None)) -> np.ndarray:
        """These rows as an array in memory (of a map: on the way there); text of variable length as Python's."""
        try:
            if isinstance(self.values, h5py.Dataset) and h5py.check_string_dtype(self.dtype):
                return self.values.asstr()[rows].astype("U")
            return np.asarray(self.values[rows] if self.shape else self.values[()])
        except BROKEN as error:
            raise InputError(_unreadable(self.where, error)) from None


@contextmanager
def opened(path: Path, names: dict[str, tuple[str, ...]]) -> Iterator[tuple[dict[str, Array], list[str]]]:
    """The arrays of a file, and what else it holds.

    Those of .npy (which is `features`) and HDF5 files stay there until they are read; NumPy reads those of .npz files whole.

    Parameters
    ----------
    names : arrays that are wanted where the file has them, and what they may be called in an HDF5 file

    Raises
    ------
    InputError
        One line with file and array: missing, damaged, of an unknown kind, or of Python objects.
    """
    kind = path.suffix.lower()
    if kind not in (".npz", ".npy", ".h5", ".hdf5"):
        raise InputError(f"{path}: no features file that is known here; expected .npz, .npy, .h5 or .hdf5")
    if not path.is_file():
        raise InputError(f"{path}: not found")
    if kind == ".npy":
        yield {"features": npy(path)}, []
    elif kind == ".npz":
        yield _npz(path, names)
    else:
        try:
            file = h5py.File(path, "r")
        except BROKEN as error:
            raise InputError(f"{path}: not a complete HDF5 file ({in_a_line(error)}); write it again") from None
        with file:
            if str(file.attrs.get("schema", "")).startswith("tailcache"):
                raise InputError(f"{path}: is a features file of this project already; copy it to data/imported/")
            yield _h5(path, file, names)


def npy(path: Path) -> Array:
    """The array of a .npy file, mapped."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: not found") from None
    except BROKEN as error:
        raise InputError(_unreadable(str(path), error)) from None
    return _plain(str(path), values)


def _npz(path: Path, names: dict[str, tuple[str, ...]]) -> tuple[dict[str, Array], list[str]]:
    try:
        file = np.load(path, allow_pickle=False)
        held = file.files
    except (*BROKEN, AttributeError) as error:  # AttributeError: np.load takes a .npy under any name, and gives its array
        raise InputError(f"{path}: not a complete .npz file ({in_a_line(error)}); save it again with np.savez") from None
    arrays = {}
    with file:
        for name in (name for name in held if name in names):
            try:
                arrays[name] = _plain(f"{path}: {name}", file[name])
            except BROKEN as error:
                raise InputError(_unreadable(f"{path}: {name}", error)) from None
    return arrays, [name for name in held if name not in names]


def _h5(path: Path, file: h5py.File, names: dict[str, tuple[str, ...]]) -> tuple[dict[str, Array], list[str]]:
    arrays, used = {}, set()
    for name, places in names.items():
        for place in (place for place in (name, *places) if place in file and name not in arrays):
            arrays[name] = _plain(f"{path}: {place}", file[place])
            used.add(place.partition("/")[0])
    return arrays, [name for name in file if name not in used]


def _plain(where: str, values: object) -> Array:
    """What was found, unless it is no array (a group, raw bytes) or one of Python objects."""
    if not isinstance(values, (np.ndarray, h5py.Dataset)):
        raise InputError(f"{where}: expected an array, got {type(values).__name__}")
    if values.dtype.kind == "O" and not h5py.check_string_dtype(values.dtype):
        raise InputError(_unreadable(where, "objects"))
    return Array(where, values)


def _unreadable(where: str, why: object) -> str:
    advice = "save plain numbers and fixed-length text, no Python objects: nothing is unpickled here"
    return f"{where}: cannot be read ({in_a_line(why)}); {advice}"
