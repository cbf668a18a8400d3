"""Stage `deviation`: how far each class's training features lie from its test features (MFW, section 5.4 and Fig. 7).

Every class is measured with as many training images as the smallest class has, so that the figures compare. That few images have a mean
that lies off by chance, the more so the fewer they are. So beside the deviation stands its sampling floor: what would be found if the
training features came from where the test features come from. Only a deviation above the floor's band is one of the class.

Reads test features, and chooses nothing by them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from pipeline import features, params
from pipeline.files import InputError, interruptible, takes_no_arguments, write_csv, write_json
from pipeline.progress import bar

RESULTS = Path("data/results")
TOGETHER = 100  # subsets drawn at a time, and of a resampled training set


class Deviation(params.Params):
    """rounds : subsets drawn of each class (R of the paper, 1000); bootstrap : times that train and test are resampled for the floor."""

    rounds: int = Field(1000, ge=1)
    bootstrap: int = Field(200, ge=1)


@interruptible("deviation: stopped, nothing is written; run it again")
def main() -> None:
    tree = params.read()
    chosen = params.section(tree, "deviation", Deviation)
    path = params.features_file(tree)
    splits = features.load(path, "train", "test")
    train, test = splits["train"], splits["test"]

    counts = train.class_counts
    measured = np.flatnonzero((counts > 0) & (test.class_counts > 0))
    if not len(measured):
        raise InputError(f"{path}: no class has both training and test images, so none can deviate")
    size = int(counts[measured].min())
    about = f"{len(measured)} classes, {len(train.labels):,} training and {len(test.labels):,} test images"
    print(f"deviation: {path}, {about} on cpu, {chosen.rounds} draws of {size} training images a class", flush=True)
    rows = []
    for k in bar(measured, "deviation", "class"):
        own, target = unit(train.features[train.labels == k]), unit(test.features[test.labels == k])
        value = feature_deviation(own, target, size, chosen.rounds, np.random.default_rng([0, k]))
        found = {"deviation": value, "floor": None, "floor_low": None, "floor_high": None}
        if len(target) > 1:  # of a single test image nobody knows how others would spread
            floor = sampling_floor(target, len(own), size, chosen.bootstrap, np.random.default_rng([1, k]))
            found |= {"floor": floor.mean(), "floor_low": np.quantile(floor, 0.025), "floor_high": np.quantile(floor, 0.975)}
        rows.append({"class": k, "train_images": counts[k], **found})

    judged = [row for row in rows if row["floor"] is not None]
    mean = round(float(np.mean([row["deviation"] for row in rows])), 4)
    floor = round(float(np.mean([row["floor"] for row in judged])), 4) if judged else None
    above = sum(bool(row["deviation"] > row["floor_high"]) for row in judged)
    write_csv(RESULTS / "deviation.csv", [{k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows])
    write_json(RESULTS / "deviation.json", {"deviation": {"mean": mean, "floor": floor, "classes_above_floor": above}})
    print(
        f"deviation: {mean} on average, {floor} expected by chance; {above} of {len(judged)} classes above chance -> "
        f"{RESULTS}/deviation.csv, {RESULTS}/deviation.json"
    )


def feature_deviation(train: np.ndarray, test: np.ndarray, size: int, rounds: int, generator: np.random.Generator) -> float:
    """How far the mean training feature of one class lies from its mean test feature (MFW, section 5.4).

    The mean over `rounds` draws of ||mean of `size` training features - mean of all test features||_2; draws are without replacement,
    means are not normalised again. A class of exactly `size` images has only one such subset.

    Parameters
    ----------
    train : (n, d) L2-normalised features of the class's training images, n >= size
    test : (m, d) those of its test images
    """
    target = test.mean(0)
    if len(train) == size:
        return float(np.linalg.norm(train.mean(0) - target))
    distances = []
    for start in range(0, rounds, TOGETHER):
        chosen = subsets(len(train), size, min(TOGETHER, rounds - start), generator)
        member = np.zeros((len(chosen), len(train)))
        np.put_along_axis(member, chosen, 1 / size, axis=1)
        distances.append(np.linalg.norm(member @ train - target, axis=1))  # (draws,)
    return float(np.concatenate(distances).mean())


def sampling_floor(test: np.ndarray, images: int, size: int, worlds: int, generator: np.random.Generator) -> np.ndarray:
    """The deviations (worlds,) that chance alone gives: both sets are drawn with replacement from one class's test features.

    In each world the class has `images` training images, of which subsets of `size` are measured, and as many test images as it has. The
    paper has no such figure: its d(c) is about sqrt((1 - ||mean||²) / size) at least. m features spread less around their own mean than
    around the true one, by (m - 1) / m in variance, which is put right; with three of them the mean stays a tenth too low.

    Parameters
    ----------
    test : (m, d) L2-normalised features of the class's test images, m > 1
    """
    m, inner = len(test), 1 if images == size else TOGETHER
    products, found = test @ test.T, []  # of which every distance is a sum
    for _ in range(worlds):
        images_drawn = generator.integers(m, size=images)  # the class's training set in this world, as places in `test`
        chosen = images_drawn[subsets(images, size, inner, generator)]
        difference = np.zeros((inner, m))  # of the two means, in weights of test features
        np.add.at(difference, (np.arange(inner)[:, None], chosen), 1 / size)
        difference -= np.bincount(generator.integers(m, size=m), minlength=m) / m
        found.append(np.sqrt(np.maximum((difference @ products * difference).sum(1), 0)).mean())
    return np.array(found) * np.sqrt(m / (m - 1))


def subsets(total: int, size: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Random subsets (count, size) of 0 … total - 1, each without replacement, all equally likely."""
    if size * size > total:
        return generator.random((count, total)).argpartition(size - 1, axis=1)[:, :size]
    chosen = generator.integers(total, size=(count, size))  # mostly without a number twice, at a fraction of the cost
    while len(again := np.flatnonzero((np.diff(np.sort(chosen, axis=1), axis=1) == 0).any(1))):
        chosen[again] = generator.integers(total, size=(len(again), size))
    return chosen


def unit(x: np.ndarray) -> np.ndarray:
    """Rows divided by their L2 norm, float64; a zero row stays zero."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


if __name__ == "__main__":
    takes_no_arguments(__doc__)
    main()
