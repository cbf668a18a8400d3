"""Features that somebody computed elsewhere (CLIP, DINOv2, …), so that heads compare without images and without training.

`python -m pipeline.import_features clip.npz` writes data/imported/clip.h5, which heads, `deviation` and `evaluate` read like the pipeline's
own; `--help` says what a file may hold. Rows keep their order, and equal input gives equal bytes.

Without a stage-one classifier in the file, one is fitted: cross-entropy on the training split, every image once an epoch. Features are
divided by one number for it, which makes their mean squared length 1 (so one rate suits unit-length and raw features of any dimension), and
that number goes into the weight. The penalty is that of scikit-learn's LogisticRegression at C = 1 on coordinates of unit mean square, and
on the bias too. Features are not centred: the mean's share of a score would move into the bias, which τ-norm drops.
"""

from __future__ import annotations

import argparse
import filecmp
import re
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from pipeline import features, params, progress
from pipeline.arrays import Array, npy, opened
from pipeline.files import InputError, attributes_of, interruptible, replacing
from pipeline.heads import crt
from pipeline.parts import NAMES, PARTED, Part, Shares, class_number, has_split, parts

FOLDER = Path("data/imported")
BLOCK = 8192  # rows copied at a time

HELP = """\
what FILE may hold (n images, d dimensions, c classes):
  .npz .h5 .hdf5  features (n, d), floating point; labels (n,), integers from 0;
                  optional: split (n,), the words train, val and test; classes, a number (default: largest label + 1);
                  weight (c, d) and bias (c,), the classifier trained together with the backbone.
                  In parts instead: train_features, train_labels, test_features, test_labels, optional val_features, val_labels.
                  HDF5 may have groups: train/features, train/labels, …, classifier/weight, classifier/bias.
  .npy            features alone, as STEM.npy or STEM_features.npy; labels and split are beside it in STEM_labels.npy and (optional)
                  STEM_split.npy, or where --labels and --split say.

Without a split, a test set is cut: a share of each class, and at least one image of a class that has two or more.

examples:
  python -m pipeline.import_features clip.npz
  python -m pipeline.import_features dino.npy --labels labels.npy --test 0.3 --val 0.1 --name dino-b14
"""


@interruptible("import_features: stopped, nothing is written; run it again")
def main() -> None:
    options = arguments()
    current = params.read().get("features")  # run elsewhere than in the root folder, this says so
    target = target_of(options.name, [options.file])
    with replacing(target) as temporary:
        summary, origin = convert(temporary, options)
        if origin == "fitted":
            start = time.perf_counter()
            add_classifier(temporary, *fit(temporary, options.epochs, options.seed))
            origin = f"fitted in {time.perf_counter() - start:.1f} s"
        where = place(temporary, target)
    print(f"{options.name}: {summary}; stage-one classifier {origin} -> {where}")
    first = "" if current == str(target) else f"set `features: {target}` in params.yaml, "
    print(f"next: {first}`dvc add {target}`, then `dvc repro evaluate deviation`")


def target_of(name: str, sources: Sequence[Path]) -> Path:
    """The file of a name in FOLDER; an error where that is one of the sources, which would be written over."""
    target = FOLDER / f"{name}.h5"
    if target.resolve() in {source.resolve() for source in sources}:
        raise InputError(f"{target}: would be written over; choose another --name")
    return target


def place(temporary: Path, target: Path) -> str:
    """For the terminal: where a new file goes, and whether it replaces another one there."""
    replaced = target.exists() and not filecmp.cmp(temporary, target, shallow=False)
    return f"{target}{' (replaced)' * replaced}"


def arguments() -> argparse.Namespace:
    """The command line, its values checked."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.import_features",
        description="Turn features from elsewhere into data/imported/NAME.h5, which heads read in the place of data/features.h5.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help=".npz, .npy, .h5 or .hdf5, see below")
    parser.add_argument("--name", help="what to call it (default: as FILE is called, without _features)")
    parser.add_argument("--labels", type=Path, metavar="NPY", help="a .npy file with labels, where FILE has none")
    parser.add_argument("--split", type=Path, metavar="NPY", help="a .npy file with the words train, val and test, where FILE has none")
    parser.add_argument("--test", type=float, metavar="SHARE", help="of each class, cut where there is no split (default: 0.2)")
    parser.add_argument("--val", type=float, metavar="SHARE", help="of each class, likewise for validation (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the cut and of the fit (default: 0)")
    parser.add_argument("--epochs", type=int, default=30, help="of fitting a stage-one classifier where FILE has none (default: 30)")
    parser.add_argument("--no-classifier", dest="classifier", action="store_false", help="fit none; heads that start from it then say so")
    options = parser.parse_args()

    options.name = options.file.stem.removesuffix("_features") if options.name is None else options.name
    check_name(options.name, str(options.file))
    options.cut = options.test is not None or options.val is not None
    options.shares = Shares(0.2 if options.test is None else options.test, options.val or 0.0, options.seed)
    if not (0 < options.shares.test < 1 and options.shares.val >= 0 and options.shares.test + options.shares.val < 1):
        raise InputError("--test, --val: expected shares of each class, more than 0 for test, and less than 1 together")
    if not (0 <= options.seed < 2**32 and options.epochs >= 1):
        raise InputError("--seed, --epochs: expected a seed from 0 to 2³² - 1, and at least one epoch")
    return options


def check_name(name: str, where: str) -> None:
    """Refuse a name that cannot be a file's in FOLDER; `where` it comes from begins the line."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise InputError(f"{where}: {name!r} cannot name a file here; give a --name of letters, digits, _ and -")


def convert(path: Path, options: argparse.Namespace) -> tuple[str, str]:
    """Write all but a classifier that is yet to be fitted. What was read is free again on return, before the fit.

    Returns
    -------
    for the terminal: what the file holds; where the classifier comes from (`given`, `fitted` or `none`)
    """
    with opened(options.file, NAMES) as (arrays, unused):
        beside(arrays, options)
        if options.cut and has_split(arrays):
            raise InputError(f"{options.file}: says itself which images are test images; leave --test and --val out")
        found = parts(str(options.file), arrays, options.shares)
        classes, dim = class_number(arrays, found), found["train"].features.shape[1]
        given = classifier(str(options.file), arrays, classes, dim)
        origin = "given" if given else "fitted" if options.classifier else "none"
        write(path, found, classes, origin)
        if given:
            add_classifier(path, *given)

    counts = np.bincount(found["train"].labels, minlength=classes)
    text = " + ".join(f"{len(part.labels):,} {name}" for name, part in found.items()) + f" images x {dim} features"
    if not has_split(arrays):
        text += f" (cut: {options.shares.test:g} of each class for test, {options.shares.val:g} for val, seed {options.seed})"
    text += f"; {classes} classes, {counts.max():,} training images in the largest, {counts[counts > 0].min():,} in the smallest"
    text += f", classes without any: {(counts == 0).sum()}" if (counts == 0).any() else ""
    return text + (f"; not used: {', '.join(unused)}" if unused else ""), origin


def beside(arrays: dict[str, Array], options: argparse.Namespace) -> None:
    """Add labels and split from files of their own: those that the command line names, and for a .npy file those of its name."""
    for name, path in (("labels", options.labels), ("split", options.split)):
        if path and (name in arrays or any(other in arrays for other in PARTED)):
            raise InputError(f"{options.file}: has labels or a split itself; leave --{name} out")
        if path is None and options.file.suffix.lower() == ".npy":
            sibling = options.file.with_name(f"{options.file.stem.removesuffix('_features')}_{name}.npy")
            path = sibling if sibling.exists() or name == "labels" else None
            if path and not path.exists():
                raise InputError(f"{path}: not found; it holds the labels of {options.file}, or --labels names their file")
        if path:
            arrays[name] = npy(path)


def classifier(source: str, arrays: dict[str, Array], classes: int, dim: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The weight (c, d) and bias (c,) that the file gives; None where it gives neither."""
    given = [name for name in ("weight", "bias") if name in arrays]
    if not given:
        return None
    if len(given) == 1:
        raise InputError(f"{source}: {given[0]}: has no {'bias' if given == ['weight'] else 'weight'} beside it; a classifier has both")
    for name, shape in (("weight", (classes, dim)), ("bias", (classes,))):
        array = arrays[name]
        if array.shape != shape or array.dtype.kind != "f":
            raise InputError(f"{array.where}: {array.dtype} of shape {array.shape}, expected floating point of {shape}")
        if not np.isfinite(single(array.read())).all():
            raise InputError(f"{array.where}: NaN or infinite values; leave weight and bias out to have them fitted")
    return single(arrays["weight"].read()), single(arrays["bias"].read())


def write(path: Path, found: dict[str, Part], classes: int, origin: str) -> None:
    """Write splits as `extract` does, block by block; a value that is no finite float32 is an error with its row."""
    with h5py.File(path, "w", **attributes_of(classes)) as file:
        file.attrs["schema"] = features.SCHEMA
        file.attrs["dim"] = found["train"].features.shape[1]
        file.attrs["classes"] = classes
        file.attrs["class_counts"] = np.bincount(found["train"].labels, minlength=classes)
        file.attrs["imported"] = origin
        for name, (source, chosen, labels) in found.items():
            half = source.dtype == np.float16
            data = file.create_dataset(f"{name}/features", (len(labels), source.shape[1]), "f2" if half else "f4")
            done = 0
            for start in progress.bar(range(0, source.shape[0], BLOCK), f"import {name}", "block"):
                rows = slice(start, start + BLOCK)
                if chosen is not None and not chosen[rows].any():
                    continue
                block = single(source.read(rows))
                wanted = np.arange(len(block)) if chosen is None else np.flatnonzero(chosen[rows])
                bad = ~np.isfinite(block[wanted]).all(1)
                if bad.any():
                    row = start + int(wanted[bad.argmax()])
                    raise InputError(f"{source.where}: NaN, infinite or too large for float32 in row {row}; leave that image out")
                data[done : done + len(wanted)] = block[wanted]
                done += len(wanted)
            file[f"{name}/labels"] = labels


def single(values: np.ndarray) -> np.ndarray:
    """As float32; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def fit(path: Path, epochs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight (c, d) and bias (c,) of a linear classifier of the training split of a file that `write` wrote."""
    train = features.load(path, "train")["train"]
    n, d = train.features.shape
    blocks = (train.features[start : start + BLOCK] for start in range(0, n, BLOCK))
    scale = np.float32(np.sqrt(sum(np.einsum("nd,nd->", x, x, dtype=float) for x in blocks) / n) or 1)
    np.divide(train.features, scale, out=train.features)  # in place: there may be gigabytes of it
    batch = min(max(n // 80, 32), 512)
    head = crt.Head(sampler="instance", loss="ce", epochs=epochs, batch=batch, lr=10.0, weight_decay=1 / (n * d))
    fitted = head.fit(train, None, seed)
    if not np.isfinite(fitted.weight / scale).all():
        raise InputError("the fit of a stage-one classifier ended in NaN or infinite weights; scale the features, or --no-classifier")
    return fitted.weight / scale, fitted.bias


def add_classifier(path: Path, weight: np.ndarray, bias: np.ndarray) -> None:
    """Append the group `classifier`, as `extract` writes it for a linear layer."""
    with h5py.File(path, "r+") as file:
        file["classifier/weight"] = weight
        file["classifier/bias"] = bias
        file["classifier"].attrs["normalise"] = False
        file["classifier"].attrs["scale"] = 1.0


if __name__ == "__main__":
    main()
