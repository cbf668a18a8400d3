"""features.h5 is refused, in one line with file, group and reason, unless it is whole and sound."""

import h5py
import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from pipeline import features
from pipeline.classifier import Transform
from pipeline.files import InputError


def write(path, **changes):
    """A sound file of 3 classes and 4 dimensions, but for the changes: a data set's or attribute's name and its value (None: left out)."""
    rng = np.random.default_rng(0)
    content = {"schema": features.SCHEMA, "dim": 4, "classes": 3, "class_counts": np.array([3, 2, 1])}
    content |= {f"{split}/features": rng.random((6, 4), np.float32) for split in ("train", "val", "test")}
    content |= {f"{split}/labels": np.array([0, 0, 0, 1, 1, 2]) for split in ("train", "val", "test")}
    content |= {"classifier/weight": rng.random((3, 4), np.float32), "classifier/bias": np.zeros(3, np.float32)}
    with h5py.File(path, "w") as file:
        for name, value in {**content, **changes}.items():
            if value is not None:
                target = file if "/" in name else file.attrs
                target[name] = value


def test_a_sound_file_is_read(tmp_path):
    write(tmp_path / "f.h5")
    splits = features.load(tmp_path / "f.h5", "train", "val", "test")
    train = splits["train"]
    assert train.features.shape == (6, 4)
    assert train.features.dtype == np.float32
    assert train.class_counts.tolist() == [3, 2, 1]
    assert train.classifier.weight.shape == (3, 4)
    assert train.absent is None
    assert features.class_counts(tmp_path / "f.h5").tolist() == [3, 2, 1]


def test_validation_and_classifier_may_be_missing(tmp_path):
    write(tmp_path / "f.h5", **dict.fromkeys(["val/features", "val/labels", "classifier/weight", "classifier/bias"]))
    splits = features.load(tmp_path / "f.h5", "train", "val")
    assert splits["val"] is None
    with pytest.raises(InputError, match="f.h5: has no stage-one classifier .* which the head 'tau' starts from"):
        splits["train"].stage_one("tau")


def test_half_precision_is_read_as_float32(tmp_path):
    write(tmp_path / "f.h5", **{"train/features": np.ones((6, 4), np.float16)})
    assert features.load(tmp_path / "f.h5", "train")["train"].features.dtype == np.float32


def test_views_and_features_before_the_relu_are_mapped(tmp_path):
    """Nobody reads them who does not use them."""
    views, before = np.random.default_rng(1).random((2, 6, 4)).astype(np.float16), np.random.default_rng(2).normal(size=(6, 4)).astype("f4")
    write(tmp_path / "f.h5", **{"train/views": views, "train/pre_relu": before})
    splits = features.load(tmp_path / "f.h5", "train", "test")
    train = splits["train"]
    assert isinstance(train.views, np.memmap)
    assert np.array_equal(train.views, views)
    assert np.array_equal(train.tapped("pre_relu").features, before)
    assert train.tapped("pre_relu").views is None
    assert train.tapped("features") is train
    with pytest.raises(InputError, match="f.h5: has no pre_relu features; set `extract.pre_relu: true` in params.yaml, then `dvc repro`"):
        splits["test"].tapped("pre_relu")
    before[2, 1] = np.nan
    write(tmp_path / "f.h5", **{"train/pre_relu": before})
    with pytest.raises(InputError, match="f.h5: pre_relu: NaN or infinite values"):
        features.load(tmp_path / "f.h5", "train")["train"].tapped("pre_relu")


def test_chunked_views_of_another_writer_are_read(tmp_path):
    write(tmp_path / "f.h5")
    views = np.random.default_rng(1).random((2, 6, 4), np.float32)
    with h5py.File(tmp_path / "f.h5", "a") as file:
        file.create_dataset("train/views", data=views, chunks=(1, 3, 4), compression="gzip")
    assert np.array_equal(features.load(tmp_path / "f.h5", "train")["train"].views, views)


@pytest.mark.parametrize("transform", [None, Transform(np.ones(4, np.float32), l2=True)])
def test_class_means(transform):
    rng = np.random.default_rng(0)
    x = rng.random((50, 4), np.float32)
    for labels in (np.repeat([0, 1, 3], [30, 19, 1]), rng.integers(0, 3, 50)):  # together, and in any order
        means = features.Features(x, labels, 5).class_means(transform)
        seen = transform(x) if transform else x
        for k in range(5):
            expected = seen[labels == k].astype(float).mean(0) if (labels == k).any() else np.zeros(4)
            np.testing.assert_allclose(means[k], expected, rtol=1e-5, atol=1e-6)


def holed(value):
    x = np.ones((6, 4), np.float32)
    x[3, 1] = value
    return x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "tailcache-features-0"}, "schema is 'tailcache-features-0', expected 'tailcache-features-1'"),
        ({"schema": None}, "schema is 'missing'"),
        ({"train/features": holed(np.nan)}, "train/features: NaN or infinite values, the first in row 3"),
        ({"train/features": holed(np.inf)}, "train/features: NaN or infinite values, the first in row 3"),
        (
            {"train/features": np.ones((6, 5), np.float32)},
            r"train/features: float32 of shape \(6, 5\), expected floating",
        ),
        ({"train/features": np.ones(6, np.float32)}, r"train/features: float32 of shape \(6,\), expected floating"),
        ({"train/labels": np.zeros(5, int)}, r"train/labels: shape \(5,\), expected \(6,\)"),
        ({"train/labels": np.array([0, 0, 0, 1, 1, 3])}, "train/labels: values from 0 to 3, expected 0 to 2"),
        ({"train/labels": np.array([0, 0, 0, 1, 1, -1])}, "train/labels: values from -1 to 1, expected 0 to 2"),
        ({"train/labels": None}, "not a complete features file"),
        ({"train/labels": np.array([0.0, 0, 0, 1, 1, 2])}, r"train/labels: float64 of shape \(6,\), expected integers of shape \(n,\)"),
        ({"train/features": np.ones((6, 4), int)}, "train/features: int64 of shape"),
        ({"train/features": None, "train/features/more": np.ones(3)}, "not a complete features file"),
        ({"classes": "ten"}, "not a complete features file"),
        ({"schema": np.array([1, 2])}, "schema is "),
        ({"classifier/weight": np.full((3, 4), np.nan)}, "classifier: NaN or infinite values"),
        ({"train/features": np.ones((0, 4), np.float32), "train/labels": np.zeros(0, int)}, "train: holds no sample"),
        ({"dim": None}, "not a complete features file"),
        ({"classifier/weight": np.ones((3, 5), np.float32)}, r"classifier: shapes \(3, 5\) and \(3,\), expected \(3, 4\) and \(3,\)"),
        ({"classifier/bias": None}, "not a complete features file"),
        ({"train/views": np.ones((2, 5, 4), np.float32)}, r"train/views: float32 of shape \(2, 5, 4\), expected float32 or float16 of"),
        ({"train/views": np.ones((0, 6, 4), np.float32)}, r"train/views: float32 of shape \(0, 6, 4\)"),
        ({"train/pre_relu": np.ones((6, 4), int)}, r"train/pre_relu: int64 of shape \(6, 4\), expected float32 or float16 of"),
    ],
)
def test_an_unsound_file_is_refused(tmp_path, changes, message):
    write(tmp_path / "f.h5", **changes)
    with pytest.raises(InputError, match=f"^{tmp_path}/f.h5: {message}") as caught:
        features.load(tmp_path / "f.h5", "train")
    assert "\n" not in str(caught.value)


def test_a_truncated_or_foreign_file_is_refused(tmp_path):
    path = tmp_path / "f.h5"
    with pytest.raises(InputError, match="f.h5: not found; import it, or `dvc pull`"):
        features.load(path, "train")
    with pytest.raises(InputError, match="features.h5: not found; run `dvc repro extract`"):
        features.load(tmp_path / "features.h5", "train")
    with pytest.raises(InputError, match="imported/features.h5: not found; import it, or"):
        features.load(tmp_path / "imported/features.h5", "train")
    write(path)
    whole = path.read_bytes()
    for size in (0, 10, 1000, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="not a complete features file"):
            features.load(path, "train")
    path.write_text("a text")
    with pytest.raises(InputError, match="not a complete features file"):
        features.load(path, "train")


def test_a_normalised_classifier_gives_scale_times_cosines(tmp_path):
    write(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "a") as file:
        file["classifier"].attrs["normalise"] = True
        file["classifier"].attrs["scale"] = 30.0
        weight = file["classifier/weight"][:]
    train = features.load(tmp_path / "f.h5", "train")["train"]
    np.testing.assert_allclose(train.classifier.scores(train.features), 30 * cosine_similarity(train.features, weight), rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_no_positive_number_is_refused(tmp_path, scale):
    write(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "a") as file:
        file["classifier"].attrs["normalise"] = True
        file["classifier"].attrs["scale"] = scale
    with pytest.raises(InputError, match=r"f.h5: classifier: scale is .*, expected a positive number"):
        features.load(tmp_path / "f.h5", "train")


@pytest.mark.parametrize("counts", [None, np.array([3, 1, 2]), np.array([3, 2])])
def test_class_counts_have_to_be_those_of_the_labels(tmp_path, counts):
    write(tmp_path / "f.h5", class_counts=counts)
    with pytest.raises(InputError, match="f.h5: class_counts: missing, or not the numbers of train/labels"):
        features.class_counts(tmp_path / "f.h5")


@pytest.mark.parametrize("labels", [np.array([0.0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 1, -1]), np.zeros((6, 1), int)])
def test_labels_that_cannot_be_counted_are_a_line(tmp_path, labels):
    write(tmp_path / "f.h5", **{"train/labels": labels})
    with pytest.raises(InputError, match="f.h5: train/labels: "):
        features.class_counts(tmp_path / "f.h5")
