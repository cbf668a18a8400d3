"""features.h5: what `extract` caches and every head reads.

Layout: `/train`, `/val` (where there is one) and `/test`, each with `features (n, d) f4` (or f2) and `labels (n,) i8`; `/classifier` with
stage one's `weight (c, d)` and `bias (c,)`, and attributes `normalise` and `scale`: where it normalises, its logits are `scale` times the
cosines between weights and features. Optional are `/train/views (V, n, d)`, features of V augmented versions of each training image, and
`/SPLIT/pre_relu (n, d)`, features before the backbone's last ReLU. Root attributes: `schema`, `dim`, `classes`, `class_counts`. Data sets
are contiguous, and the optional ones are mapped: who does not use them does not read them. `import_features` adds the attribute `imported`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from pipeline.classifier import Classifier, Tap, Transform
from pipeline.files import InputError, in_a_line
from pipeline.sampling import by_class

FILE = Path("data/features.h5")  # of this project's own backbone; imported ones are called otherwise
SCHEMA = "tailcache-features-1"
BLOCK = 16384  # rows checked at a time


@dataclass(frozen=True)
class Features:
    """One split.

    features : (n, d) float32
    labels : (n,) int64
    classes : number of classes c
    classifier : stage one's, where the file has it
    source : the file, for messages
    views : (V, n, d) float32 or float16, features of augmented versions of the images; None where the file has none
    pre_relu : (n, d) float32 or float16, features before the backbone's last ReLU; None likewise
    """

    features: np.ndarray
    labels: np.ndarray
    classes: int
    classifier: Classifier | None = None
    source: str = "features"
    views: np.ndarray | None = None
    pre_relu: np.ndarray | None = None

    @property
    def dim(self) -> int:
        return self.features.shape[1]

    @property
    def class_counts(self) -> np.ndarray:
        """Samples of each class, (c,)."""
        return np.bincount(self.labels, minlength=self.classes)

    @property
    def absent(self) -> np.ndarray | None:
        """(c,) bool, classes without a sample; None where there is no such class."""
        absent = self.class_counts == 0
        return absent if absent.any() else None

    def class_means(self, transform: Transform | None = None) -> np.ndarray:
        """Mean of the transformed features of each class, (c, d) in their precision; 0 for a class without a sample.

        A class whose samples lie together, as `prepare` and `extract` leave them, is read where it is; others are gathered.
        """
        means = np.zeros((self.classes, self.dim), self.features.dtype)
        for k, rows in enumerate(by_class(self.labels, self.classes)):
            if len(rows):
                together = rows[-1] - rows[0] == len(rows) - 1
                members = self.features[rows[0] : rows[-1] + 1] if together else self.features[rows]
                members = transform(members) if transform else members
                means[k] = np.full(len(rows), 1 / len(rows), members.dtype) @ members
        return means

    def tapped(self, tap: Tap) -> Features:
        """The same samples with the features that stand at `tap`: `features` as they are, or those before the last ReLU, without views.

        Raises
        ------
        InputError
            If the file has no such features, or NaN or infinite ones.
        """
        if tap == "features":
            return self
        if self.pre_relu is None:
            raise InputError(f"{self.source}: has no pre_relu features; set `extract.pre_relu: true` in params.yaml, then `dvc repro`")
        features = self.pre_relu.astype(np.float32)
        if not np.isfinite(features).all():
            raise InputError(f"{self.source}: pre_relu: NaN or infinite values; run `dvc repro --force extract`")
        return replace(self, features=features, views=None)

    def stage_one(self, head: str) -> Classifier:
        """Stage one's classifier, or an error that says which head cannot do without."""
        if self.classifier is None:
            raise InputError(f"{self.source}: has no stage-one classifier (group 'classifier'), which the head {head!r} starts from")
        return self.classifier


def load(path: Path, *splits: str) -> dict[str, Features | None]:
    """Read and check splits of a features file; `val` is None where the file has none.

    Raises
    ------
    InputError
        One line with file, group and reason: missing, damaged, of another schema, shapes that do not fit together, NaN or infinite
        features, labels out of range.
    """
    with _opened(path) as (file, classes, dim):
        classifier = _classifier(path, file, classes, dim)
        return {name: None if name == "val" and name not in file else _split(path, file, name, classes, dim, classifier) for name in splits}


def number_of_classes(path: Path) -> int:
    """Of a features file; raises as `load` does."""
    with _opened(path) as (_, classes, _):
        return classes


def class_counts(path: Path) -> np.ndarray:
    """Training samples of each class, (c,), without reading training features; they decide what is many-, medium- and few-shot.

    Raises
    ------
    InputError
        As `load` does, or if the attribute `class_counts` is missing or disagrees with the training labels.
    """
    with _opened(path) as (file, classes, _):
        counts, labels = file.attrs.get("class_counts"), _labels(path, file, "train", classes)
    if counts is None or not np.array_equal(counts, np.bincount(labels, minlength=classes)):
        raise InputError(f"{path}: class_counts: missing, or not the numbers of train/labels; {again(path)}")
    return counts


@contextmanager
def _opened(path: Path) -> Iterator[tuple[h5py.File, int, int]]:
    """A features file, its number of classes c and its width d; what is wrong with it ends in a line."""
    try:
        with h5py.File(path, "r") as file:
            if str(file.attrs.get("schema", "missing")) != SCHEMA:
                raise InputError(f"{path}: schema is {str(file.attrs.get('schema', 'missing'))!r}, expected {SCHEMA!r}")
            yield file, int(file.attrs["classes"]), int(file.attrs["dim"])
    except FileNotFoundError:
        advice = "run `dvc repro extract`" if extracted(path) else "import it"
        raise InputError(f"{path}: not found; {advice}, or `dvc pull` where the results are shared") from None
    except PermissionError:
        raise InputError(f"{path}: cannot be read; see its permissions") from None
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a complete features file ({in_a_line(error)}); {again(path)}") from None


def again(path: Path) -> str:
    """How to make a damaged features file anew."""
    return "run `dvc repro --force extract`" if extracted(path) else "import it again"


def extracted(path: Path) -> bool:
    """Whether, by its name, it is `extract` that makes a file, in this workspace or another."""
    return path.name == FILE.name and path.parent.name != "imported"


def _labels(path: Path, file: h5py.File, name: str, classes: int) -> np.ndarray:
    """Labels (n,) int64 of a split."""
    labels = file[f"{name}/labels"][:]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise InputError(f"{path}: {name}/labels: {labels.dtype} of shape {labels.shape}, expected integers of shape (n,)")
    if len(labels) == 0:
        raise InputError(f"{path}: {name}: holds no sample")
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"{path}: {name}/labels: values from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    return labels.astype(np.int64, copy=False)


def _split(path: Path, file: h5py.File, name: str, classes: int, dim: int, classifier: Classifier | None) -> Features:
    features, labels = file[f"{name}/features"], _labels(path, file, name, classes)
    if features.ndim != 2 or features.shape[1] != dim or features.dtype.kind != "f":
        raise InputError(f"{path}: {name}/features: {features.dtype} of shape {features.shape}, expected floating point of (n, {dim})")
    if labels.shape != features.shape[:1]:
        raise InputError(f"{path}: {name}/labels: shape {labels.shape}, expected {features.shape[:1]}")
    values = features[:].astype(np.float32, copy=False)
    for start in range(0, len(values), BLOCK):  # as a whole, the check would take a quarter of the features' memory again
        finite = np.isfinite(values[start : start + BLOCK]).all(1)
        if not finite.all():
            raise InputError(f"{path}: {name}/features: NaN or infinite values, the first in row {start + int(finite.argmin())}")
    views, pre_relu = (_mapped(path, file.get(f"{name}/{more}"), (len(labels), dim)) for more in ("views", "pre_relu"))
    return Features(values, labels, classes, classifier, str(path), views, pre_relu)


def _mapped(path: Path, data: h5py.Dataset | None, shape: tuple[int, int]) -> np.ndarray | None:
    """An optional data set whose last two axes are (n, d), mapped from the file; None where there is none."""
    if data is None:
        return None
    if data.shape[-2:] != shape or data.dtype not in (np.float32, np.float16) or data.size == 0:
        raise InputError(
            f"{path}: {data.name[1:]}: {data.dtype} of shape {data.shape}, expected float32 or float16 of (…, {shape[0]}, {shape[1]})"
        )
    offset = data.id.get_offset()
    if offset is None:  # of a file that others wrote in chunks
        return data[:]
    return np.memmap(path, data.dtype, "c", offset, data.shape)  # copy-on-write: torch warns of arrays that it may not write to


def _classifier(path: Path, file: h5py.File, classes: int, dim: int) -> Classifier | None:
    if "classifier" not in file:
        return None
    weight, bias = file["classifier/weight"][:], file["classifier/bias"][:]
    if weight.shape != (classes, dim) or bias.shape != (classes,):
        raise InputError(f"{path}: classifier: shapes {weight.shape} and {bias.shape}, expected ({classes}, {dim}) and ({classes},)")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise InputError(f"{path}: classifier: NaN or infinite values")
    if not file["classifier"].attrs.get("normalise", False):
        return Classifier.linear(weight, bias)
    scale = float(file["classifier"].attrs["scale"])
    if not (np.isfinite(scale) and scale > 0):
        raise InputError(f"{path}: classifier: scale is {scale}, expected a positive number")
    norms = np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), 1e-12)
    return Classifier.linear(scale * weight / norms, bias, transform=Transform(l2=True))
