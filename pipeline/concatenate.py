"""Features of several backbones side by side, on which every head then fits: an ensemble of networks with one classifier.

`python -m pipeline.concatenate --name both ce.h5 graloss.h5` writes data/imported/both.h5, which heads, `deviation` and `evaluate` read
like the pipeline's own. An image's feature is those of all files, one behind the other, and stage one's classifier becomes the one whose
scores are the mean of theirs: `joint` is then an ensemble that averages its networks' logits, and the other heads go beyond it. Equal files
give equal bytes.

The files should be of the same images in the same order, as the same `data` and `seed.subset` make them. Labels are compared; that the
images behind them are the same is not written in a features file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from pipeline import features
from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.files import InputError, attributes_of, interruptible, replacing
from pipeline.import_features import FOLDER, add_classifier, check_name, place, target_of

SPLITS = ("train", "val", "test")


@interruptible("concatenate: stopped, nothing is written; run it again")
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.concatenate", description="Put features of several backbones side by side.")
    parser.add_argument("--name", required=True, help=f"of the file to write, {FOLDER}/NAME.h5")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="features.h5 of the same images, by two backbones or more")
    options = parser.parse_args()
    check_name(options.name, "concatenate")
    if len({path.resolve() for path in options.files}) < max(len(options.files), 2):
        raise InputError(f"{options.files[-1]}: expected two different files or more")
    target = target_of(options.name, options.files)
    print(write(target, options.files))
    print(f"next: set `features: {target}` in params.yaml, `dvc add {target}`, then `dvc repro evaluate deviation`")


def write(target: Path, files: Sequence[Path]) -> str:
    """Write the features of `files` side by side, one split in memory at a time.

    Optional data sets are kept where all files have them; of views, as many as all have.

    Returns
    -------
    for the terminal: what the file holds, and where

    Raises
    ------
    InputError
        If a file cannot be read, or is of other images than the first.
    """
    with replacing(target) as temporary:
        with h5py.File(temporary, "w", **attributes_of(features.number_of_classes(files[0]))) as file:
            counts = {}
            for name in SPLITS:
                sources = []  # so that those of the last split are free before others are read
                sources = [features.load(path, name)[name] for path in files]
                check(name, sources)
                if sources[0] is not None:
                    counts[name] = len(sources[0].labels)
                    add_split(file, name, sources)
            dim, classes = sum(source.dim for source in sources), sources[0].classes
            file.attrs["schema"] = features.SCHEMA
            file.attrs["dim"] = dim
            file.attrs["classes"] = classes
            file.attrs["class_counts"] = np.bincount(file["train/labels"], minlength=classes)
            file.attrs["imported"] = "concatenated"
        mean = mean_classifier([source.classifier for source in sources])
        if mean:
            add_classifier(temporary, *mean)
        where = place(temporary, target)
    images = " + ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{target.stem}: {images} images x {dim} features; stage-one classifier {'the mean of theirs' if mean else 'none'} -> {where}"


def check(name: str, sources: list[Features | None]) -> None:
    """Refuse files of other images than the first's, as far as their labels tell."""
    first = sources[0]
    for source in sources[1:]:
        if (source is None) != (first is None):
            known, lacks = (first, "the other file") if source is None else (source, "the first file")
            raise InputError(f"{known.source}: has a split {name!r} that {lacks} lacks; extract both from the same images")
        if source and (source.classes != first.classes or not np.array_equal(source.labels, first.labels)):
            raise InputError(f"{source.source}: {name}/labels: not those of {first.source}; extract both from the same images")


def add_split(file: h5py.File, name: str, sources: list[Features]) -> None:
    """Write one split: features, labels, and what else all sources have."""
    beside(file, f"{name}/features", [source.features for source in sources])
    file[f"{name}/labels"] = sources[0].labels
    if all(source.pre_relu is not None for source in sources):
        beside(file, f"{name}/pre_relu", [source.pre_relu for source in sources])
    if all(source.views is not None for source in sources):
        views = min(len(source.views) for source in sources)
        beside(file, f"{name}/views", [source.views[:views] for source in sources])


def beside(file: h5py.File, name: str, arrays: list[np.ndarray]) -> None:
    """Write arrays (…, n, d) one behind the other along their last axis, in the wider of their types: features, which are read as float32,
    in that, views and pre_relu in float16 where all files have them so.
    """
    ends = np.cumsum([array.shape[-1] for array in arrays])
    dataset = file.create_dataset(name, (*arrays[0].shape[:-1], ends[-1]), np.result_type(*arrays))
    for array, end in zip(arrays, ends, strict=True):
        dataset[..., end - array.shape[-1] : end] = array


def mean_classifier(classifiers: list[Classifier | None]) -> tuple[np.ndarray, np.ndarray] | None:
    """Weight (c, Σd) and bias (c,) that give the mean of the classifiers' scores; None where one is missing, or is a cosine classifier,
    whose scores are not linear in its feature.
    """
    if any(classifier is None or classifier.transform.l2 for classifier in classifiers):
        return None
    weight = np.concatenate([classifier.weight for classifier in classifiers], axis=1)
    return weight / np.float32(len(classifiers)), np.mean([classifier.bias for classifier in classifiers], axis=0)


if __name__ == "__main__":
    main()
