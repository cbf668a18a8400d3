"""Feature deviation against MFW's definition written out, and its floor against what chance does."""

import csv
import json
from itertools import combinations

import h5py
import numpy as np
import pytest
from scipy.stats import chisquare

from pipeline import deviation, features
from pipeline.deviation import feature_deviation, sampling_floor, subsets, unit
from tests.conftest import stage


def deviation_by_loop(train, test, size, rounds, rng):
    """MFW section 5.4, one draw at a time."""
    norm = lambda x: x / np.sqrt((x**2).sum())  # noqa: E731
    target = np.mean([norm(x) for x in test], axis=0)
    distances = []
    for _ in range(rounds):
        chosen = rng.permutation(len(train))[:size]
        distances.append(np.sqrt(((np.mean([norm(x) for x in train[chosen]], axis=0) - target) ** 2).sum()))
    return np.mean(distances)


@pytest.mark.parametrize("size", [1, 4, 29])
def test_feature_deviation_is_the_paper_s(size):
    rng = np.random.default_rng(0)
    train, test = rng.random((30, 5)), rng.random((40, 5)) + 0.2
    expected = deviation_by_loop(train, test, size, 2000, np.random.default_rng(1))
    assert feature_deviation(unit(train), unit(test), size, 4000, np.random.default_rng(2)) == pytest.approx(expected, rel=0.03)


def test_a_class_of_just_that_size_has_one_subset():
    rng = np.random.default_rng(0)
    train, test = rng.random((7, 5)), rng.random((40, 5))
    once = deviation_by_loop(train, test, 7, 1, rng)
    assert feature_deviation(unit(train), unit(test), 7, 1, rng) == pytest.approx(once, rel=1e-9)


def test_train_against_itself_is_the_sampling_floor():
    """sqrt((1 - ||m||²) / K), corrected for draws without replacement."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 50))
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    floor = np.sqrt((1 - (units.mean(0) ** 2).sum()) / 10 * (400 - 10) / 399)
    assert feature_deviation(units, units, 10, 3000, rng) == pytest.approx(floor, rel=0.02)


@pytest.mark.parametrize(("images", "size", "tests", "low_by"), [(5, 5, 200, 0.03), (60, 5, 200, 0.02), (60, 5, 20, 0.02), (8, 4, 3, 0.12)])
def test_the_floor_is_the_deviation_of_classes_that_do_not_deviate(images, size, tests, low_by):
    """Fresh train and test sets of one distribution give deviations that spread as the floor's band does, few test images or many."""
    rng = np.random.default_rng(0)
    draw = lambda n: unit(rng.normal(0.3, 1, (n, 12)))  # noqa: E731
    found = np.array([feature_deviation(draw(images), draw(tests), size, 100, rng) for _ in range(200)])
    floors = np.array([sampling_floor(draw(tests), images, size, 100, rng) for _ in range(20)])
    assert 1 - low_by < floors.mean() / found.mean() < 1.03
    low, high = np.quantile(floors, [0.025, 0.975])
    assert ((found > low) & (found < high)).mean() > 0.9


def test_a_single_test_image_has_no_floor(fitted_features):
    with h5py.File("data/features.h5", "a") as file:
        kept = np.r_[0:50, 50, 100:150]  # one of class 1
        for key in ("features", "labels"):
            rows = file[f"test/{key}"][kept]
            del file[f"test/{key}"]
            file[f"test/{key}"] = rows
    said = stage("deviation").stdout
    assert "of 2 classes above chance" in said
    row = list(csv.DictReader((fitted_features / "data/results/deviation.csv").open()))[1]
    assert float(row["deviation"]) > 0
    assert row["floor"] == row["floor_low"] == row["floor_high"] == ""


def test_no_class_in_both_splits_is_refused(fitted_features):
    with h5py.File("data/features.h5", "a") as file:
        file["test/labels"][:] = 0
        rows = np.flatnonzero(file["train/labels"][()] != 0)
        for key in ("features", "labels"):
            kept = file[f"train/{key}"][rows]
            del file[f"train/{key}"]
            file[f"train/{key}"] = kept
        file.attrs["class_counts"] = np.array([0, 12, 6])
    done = stage("deviation", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["data/features.h5: no class has both training and test images, so none can deviate"]


def test_the_floor_is_written_beside_the_deviation(fitted_features):
    """A class whose training features lie elsewhere is above its floor's band, and no other is."""
    stage("deviation")
    rows = list(csv.DictReader((fitted_features / "data/results/deviation.csv").open()))
    assert list(rows[0]) == ["class", "train_images", "deviation", "floor", "floor_low", "floor_high"]
    above = [int(row["class"]) for row in rows if float(row["deviation"]) > float(row["floor_high"])]
    assert above == [2]
    assert all(float(row["floor_low"]) < float(row["floor"]) < float(row["floor_high"]) for row in rows)
    written = json.loads((fitted_features / "data/results/deviation.json").read_text())["deviation"]
    assert written["classes_above_floor"] == 1
    assert written["mean"] == pytest.approx(np.mean([float(row["deviation"]) for row in rows]), abs=1e-4)


@pytest.fixture
def fitted_features(workspace):
    """Three classes around means of their own; the training features of the last lie elsewhere than its test features."""
    rng = np.random.default_rng(3)
    means = rng.random((3, 16)) * 3
    counts = {"train": np.array([40, 12, 6]), "test": np.array([50, 50, 50])}
    (workspace / "data").mkdir()
    with h5py.File("data/features.h5", "w") as file:
        file.attrs.update({"schema": features.SCHEMA, "dim": 16, "classes": 3, "class_counts": counts["train"]})
        for name, of_class in counts.items():
            labels = np.repeat(np.arange(3), of_class)
            shift = 2.0 * ((labels == 2) & (name == "train"))[:, None] * rng.random(16)
            file[f"{name}/labels"] = labels
            file[f"{name}/features"] = (means[labels] + shift + rng.random((len(labels), 16))).astype(np.float32)
    return workspace


@pytest.mark.parametrize(("total", "size"), [(6, 2), (5, 3), (4, 4)])
def test_subsets_are_all_equally_likely(total, size):
    drawn = np.sort(subsets(total, size, 30_000, np.random.default_rng(0)), axis=1)
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    assert found.tolist() == [list(each) for each in combinations(range(total), size)]
    assert chisquare(counts).pvalue > 0.01 or len(found) == 1


def test_what_is_written_is_of_unit_features_and_of_its_own_splits(fitted_features):
    """The deviation of the smallest class has one subset; the others and the floor are drawn anew, many times."""
    deviation.main()
    rows = list(csv.DictReader((fitted_features / "data/results/deviation.csv").open()))
    found = features.load(fitted_features / "data/features.h5", "train", "test")

    def of_class(split, k):
        return unit(found[split].features[found[split].labels == k].astype(float))

    alone = np.linalg.norm(of_class("train", 2).mean(0) - of_class("test", 2).mean(0))
    assert float(rows[2]["deviation"]) == pytest.approx(alone, abs=1e-6)
    rng = np.random.default_rng(9)
    drawn = feature_deviation(of_class("train", 0), of_class("test", 0), 6, 4000, rng)
    assert float(rows[0]["deviation"]) == pytest.approx(drawn, rel=0.03)
    for k, images in enumerate((40, 12, 6)):
        floor = sampling_floor(of_class("test", k), images, 6, 400, rng).mean()
        assert float(rows[k]["floor"]) == pytest.approx(floor, rel=0.05)
