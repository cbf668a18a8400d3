"""What every head fits: a classifier on features, without torch, so that evaluating it takes milliseconds.

Either linear layers with ReLU between them, or class means, to which faiss computes distances; before both an optional transform of the
features. A file is a safetensors archive with one metadata key, so equal classifiers are equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.files import InputError, pack_metadata, read_tensors, write_tensors

SCHEMA = "tailcache-classifier-2"
Tap = Literal["features", "pre_relu"]  # the data sets of features.h5 that a classifier can be made for
BLOCK = 4096  # rows scored at a time: the scores of a block stay in the processor's cache


@dataclass(frozen=True)
class Transform:
    """Applied to features in this order: subtract `centre` (d,), signed `power`, division by the L2 norm."""

    centre: np.ndarray | None = None
    power: float = 1.0
    l2: bool = False

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Features (n, d) to features (n, d)."""
        if self.centre is not None:
            x = x - self.centre
        if self.power != 1.0:
            x = np.sign(x) * np.abs(x) ** np.float32(self.power)
        if self.l2:
            x = _unit(x)
        return x


@dataclass(frozen=True)
class Classifier:
    """A fitted classifier of c classes.

    layers : pairs of weight (outputs, inputs) and bias (outputs,), applied in order with ReLU between them; the last has c outputs
    means : (c, d) class means instead of layers, nearest one wins
    distance : `euclidean` (score = minus the squared distance) or `cosine` (score = cosine similarity)
    absent : (c,) bool, classes without a training image: they score minus infinity and are never predicted
    tap : which features of features.h5 it wants, `features` or `pre_relu`
    record : what is worth knowing about the fit, as plain JSON values; `selected_on` names the split that chose a hyper-parameter
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    means: np.ndarray | None = None
    distance: str = "euclidean"
    transform: Transform = field(default_factory=Transform)
    absent: np.ndarray | None = None
    tap: Tap = "features"
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def linear(cls, weight: np.ndarray, bias: np.ndarray, **others: Any) -> Classifier:
        """One linear layer: weight (c, d), bias (c,)."""
        return cls(layers=((np.asarray(weight, np.float32), np.asarray(bias, np.float32)),), **others)

    @property
    def classes(self) -> int:
        return len(self.means) if self.means is not None else len(self.layers[-1][1])

    @property
    def dim(self) -> int:
        """Width of the features that it expects."""
        return (self.means if self.means is not None else self.layers[0][0]).shape[1]

    @property
    def weight(self) -> np.ndarray:
        """Weight (c, d) of a single linear layer."""
        ((weight, _),) = self.layers
        return weight

    @property
    def bias(self) -> np.ndarray:
        """Bias (c,) of a single linear layer."""
        ((_, bias),) = self.layers
        return bias

    @property
    def norms(self) -> np.ndarray:
        """L2 norm (c,) of each class's weights in the last layer, or of its mean."""
        return np.linalg.norm(self.means if self.means is not None else self.layers[-1][0], axis=1)

    @property
    def parameters(self) -> int:
        """Numbers that it takes to classify: weights, biases, means and the centre; a bias of zeros counts."""
        arrays = [array for pair in self.layers for array in pair] + [self.means, self.transform.centre]
        return sum(array.size for array in arrays if array is not None)

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Scores (n, c) of features (n, d); the largest wins."""
        x = self.transform(np.asarray(features, np.float32))
        if self.means is None:
            for depth, (weight, bias) in enumerate(self.layers):
                x = (np.maximum(x, 0) if depth else x) @ weight.T + bias
        else:
            x = self._similarity(x)
        if self.absent is not None:
            x[:, self.absent] = -np.inf
        return x

    def _similarity(self, x: np.ndarray) -> np.ndarray:
        import faiss

        if self.distance == "euclidean":
            return -faiss.pairwise_distances(x, self.means)
        return faiss.pairwise_distances(_unit(x), _unit(self.means), faiss.METRIC_INNER_PRODUCT)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predicted classes (n,) int64 of features (n, d), block by block."""
        blocks = [self.scores(features[start : start + BLOCK]).argmax(1) for start in range(0, len(features), BLOCK)]
        return np.concatenate(blocks) if blocks else np.empty(0, np.int64)

    def is_finite(self) -> bool:
        """Whether every number in it is finite."""
        numbers = [array for pair in self.layers for array in pair] + ([] if self.means is None else [self.means])
        return all(bool(np.isfinite(array).all()) for array in numbers)

    def problem(self, dim: int, classes: int) -> str | None:
        """What keeps it from classifying features (n, dim) into that many classes, in words; None where nothing does."""
        if (self.means is None) == (not self.layers):
            return "has layers and means, or neither; it needs one of them"
        if self.means is not None:
            return None if self.means.shape == (classes, dim) else f"means are {self.means.shape}, expected {(classes, dim)}"
        width = dim
        for depth, (weight, bias) in enumerate(self.layers):
            rows = classes if depth + 1 == len(self.layers) else weight.shape[0]
            if weight.shape != (rows, width) or bias.shape != (rows,):
                layer = f"of layer {depth} " if len(self.layers) > 1 else ""
                wanted = f"expected {(rows, width)} and {(rows,)}, with {dim} features and {classes} classes"
                return f"weight and bias {layer}are {weight.shape} and {bias.shape}, {wanted}"
            width = rows
        return None

    def save(self, path: Path) -> None:
        """Write the classifier whole."""
        tensors = {
            f"layer{depth}.{name}": a for depth, pair in enumerate(self.layers) for name, a in zip(("weight", "bias"), pair, strict=True)
        }
        optional = {"means": self.means, "absent": self.absent, "centre": self.transform.centre}
        tensors |= {name: array for name, array in optional.items() if array is not None}
        about = {
            "schema": SCHEMA,
            "distance": self.distance,
            "power": self.transform.power,
            "l2": self.transform.l2,
            "tap": self.tap,
            "record": self.record,
        }
        write_tensors(path, "numpy", {name: np.ascontiguousarray(array) for name, array in tensors.items()}, pack_metadata(about))

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """Read a classifier.

        Raises
        ------
        InputError
            If the file is missing, damaged or of another schema.
        """
        missing = "run `dvc repro`, or `dvc pull` first where the results are shared"
        about, tensors = read_tensors(path, "numpy", SCHEMA, "classifier", missing, "run `dvc repro`")
        depth = sum(name.endswith(".weight") for name in tensors)
        try:
            return cls(
                layers=tuple((tensors[f"layer{i}.weight"], tensors[f"layer{i}.bias"]) for i in range(depth)),
                means=tensors.get("means"),
                distance=about["distance"],
                transform=Transform(tensors.get("centre"), about["power"], about["l2"]),
                absent=tensors.get("absent"),
                tap=about["tap"],
                record=about["record"],
            )
        except KeyError as error:
            raise InputError(f"{path}: not a complete classifier (it has no {error}); run `dvc repro`") from None


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
