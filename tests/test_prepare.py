"""The stage `prepare`: splits do not overlap, counts are the formula's, what is asked for is there or refused."""

import json

import h5py
import numpy as np
import pytest
from sklearn.datasets import load_digits

from pipeline import images, prepare
from pipeline.files import InputError
from pipeline.longtail import class_counts
from pipeline.raw import RawData, RawSplit
from tests.conftest import edit, stage


def raw(per_class=(30, 40, 50), val=None):
    labels = np.repeat(np.arange(len(per_class)), per_class)
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    train = RawSplit.of_arrays(pixels, labels)
    return RawData(train, RawSplit.of_arrays(pixels[:3], np.arange(3)), val, ["a", "b", "c"], 2)


def data(**changes):
    section = {"name": "digits", "root": ".", "imbalance": "exponential", "ratio": 5.0, "val": "reserve", "val_per_class": 6}
    return prepare.Data(**{**section, **changes})


def test_reserve_sets_a_balanced_set_aside_before_the_tail_is_cut():
    source = raw()
    train, (_, val) = prepare.split(source, data(), seed=0)
    labels = source.train.labels
    assert np.bincount(labels[val]).tolist() == [6, 6, 6]
    assert np.bincount(labels[train]).tolist() == class_counts("exponential", 30 - 6, 5, 3).tolist()
    assert not set(train) & set(val)


def test_unused_leaves_the_training_set_whole():
    source = raw()
    train, (_, val) = prepare.split(source, data(val="unused", val_per_class=15), seed=0)
    whole, _ = prepare.split(source, data(val="none"), seed=0), None
    assert np.array_equal(train, whole[0])
    assert np.bincount(source.train.labels[train]).tolist() == [30, 13, 6]
    assert np.bincount(source.train.labels[val], minlength=3).tolist() == [0, 15, 15]  # class 0 has none left over
    assert not set(train) & set(val)


def test_step_and_natural():
    source = raw()
    assert np.bincount(source.train.labels[prepare.split(source, data(imbalance="step", val="none"), 0)[0]]).tolist() == [30, 6, 6]
    assert np.bincount(source.train.labels[prepare.split(source, data(imbalance="natural", val="none"), 0)[0]]).tolist() == [30, 40, 50]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val": "official"}, "data.val: digits has no validation set of its own"),
        ({"val": "unused", "imbalance": "natural"}, "data.val: the tail leaves no unused image"),
        ({"val": "none", "ratio": 100.0}, "data.ratio: 100 leaves no training image of class c"),
        ({"val_per_class": 30}, "data.val_per_class: 30 leaves no training image of class a"),
    ],
)
def test_what_cannot_be_had_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        prepare.split(raw(), data(**changes), seed=0)


def test_a_class_without_an_image_is_named():
    source = raw((30, 0, 20))
    with pytest.raises(InputError, match="^.: the training set has no image of class b"):
        prepare.split(source, data(val="none"), seed=0)


def test_official_validation_is_taken_whole():
    official = RawSplit.of_arrays(np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 2, 2]))
    train, (source, index) = prepare.split(raw(val=official), data(val="official"), seed=0)
    assert source is official
    assert index.tolist() == [0, 1, 2, 3]
    assert len(train)


def test_the_digits_file_is_what_its_index_says(workspace):
    stage("prepare")
    digits = load_digits()
    with h5py.File("data/images.h5") as file:
        assert list(file) == ["test", "train", "val"]
        assert np.bincount(file["test/labels"]).tolist() == [50] * 10
        assert np.bincount(file["val/labels"]).tolist() == [10] * 10
        assert np.bincount(file["train/labels"]).tolist() == file.attrs["class_counts"].tolist()
        pixels = file["train/images"][:] / 255
        np.testing.assert_allclose(file.attrs["mean"], pixels.mean((0, 1, 2)))
        np.testing.assert_allclose(file.attrs["std"], pixels.std((0, 1, 2)))
        assert json.loads(file.attrs["protocol"])["seed"] == 0
        places = np.concatenate([split["index"] for split in file.values()])
        assert len(set(places)) == len(places)
        labels = np.concatenate([split["labels"] for split in file.values()])
        assert np.array_equal(digits.target[places], labels)
        pixels = np.concatenate([split["images"] for split in file.values()])
        assert np.array_equal(np.round(digits.images[places] * 255 / 16).astype(np.uint8), pixels[..., 0])
    largest = np.bincount(digits.target).min() - 50 - 10
    data_set = images.load()
    assert data_set.class_counts.tolist() == class_counts("exponential", largest, 50, 10).tolist()
    assert np.array_equal(data_set.train.images, pixels[500 : 500 + len(data_set.train.labels)])  # test, train, val: by name


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(workspace):
    files = []
    for seed in (0, 0, 1):
        (workspace / "params.yaml").write_text((workspace / "params.yaml").read_text().replace("subset: 1", "subset: 0"))
        edit(workspace / "params.yaml", "subset: 0", f"subset: {seed}")
        stage("prepare")
        files.append((workspace / "data/images.h5").read_bytes())
    assert files[0] == files[1] != files[2]


def test_a_damaged_images_file_is_one_line(workspace):
    with pytest.raises(InputError, match="images.h5: not found"):
        images.load()
    stage("prepare")
    whole = images.FILE.read_bytes()
    for size in (0, 100, 2000, len(whole) // 2):
        images.FILE.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"data/images.h5: (not a complete images file|schema is)"):
            images.load()
    with h5py.File(images.FILE, "w") as file:
        file.attrs["schema"] = "something-else"
    with pytest.raises(InputError, match="schema is 'something-else'"):
        images.load()


def test_ten_thousand_classes_are_written_and_read(workspace):
    """Their names and counts are more than HDF5's oldest format holds as attributes."""
    labels = np.arange(10_000)
    split = RawSplit.of_arrays(np.zeros((10_000, 2, 2, 1), np.uint8), labels)
    many = RawData(split, split, None, [f"class {k}" for k in labels], 2)
    chosen = {"train": (split, labels), "val": None, "test": (split, labels)}
    for name in ("a", "b"):
        prepare.write(workspace / name, many, chosen, '{"name": "many"}')
    found = images.load(workspace / "a")
    assert found.names == many.names
    assert np.array_equal(found.class_counts, np.ones(10_000))
    assert np.array_equal(found.train.labels, labels)
    assert (workspace / "a").read_bytes() == (workspace / "b").read_bytes()
