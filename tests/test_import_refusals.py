"""One line says what is wrong with features from elsewhere, and nothing is written."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline import features
from pipeline.files import InputError
from tests.test_import_features import TARGET, content, convert, make_npz, parted, write_h5  # noqa: F401 - one is a fixture

X, Y, WORDS = (content()[name] for name in ("features", "labels", "split"))


def changed(array, row, value, dtype=None):
    array = array.astype(dtype or array.dtype)
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": None}, "clip.npz: features: missing; found labels, split, weight, bias"),
        ({"labels": None}, "clip.npz: labels: missing; found features"),
        ({"features": X.astype(int)}, "clip.npz: features: int64, expected float16, float32 or float64; convert it first"),
        ({"features": X[:, 0]}, r"clip.npz: features: shape \(12,\), expected \(n, d\)"),
        ({"features": X[:, :0]}, r"clip.npz: features: shape \(12, 0\), expected \(n, d\)"),
        ({"features": changed(X, (7, 2), np.nan)}, "clip.npz: features: NaN, infinite or too large for float32 in row 7; leave"),
        ({"features": changed(X, (4, 0), -np.inf)}, "clip.npz: features: NaN, infinite or too large for float32 in row 4; leave"),
        ({"features": changed(X, (3, 0), 1e39, float)}, "clip.npz: features: NaN, infinite or too large for float32 in row 3; leave"),
        ({"features": X.astype(object)}, "clip.npz: features: cannot be read .*no Python objects"),
        ({"labels": Y.astype(float)}, "clip.npz: labels: float64, expected integers; number the classes from 0 on"),
        ({"labels": Y.astype(bool)}, "clip.npz: labels: bool, expected integers"),
        ({"labels": Y.astype(str)}, "clip.npz: labels: <U21, expected integers"),
        ({"labels": Y.astype(object)}, "clip.npz: labels: cannot be read .*no Python objects"),
        ({"labels": Y[:, None]}, r"clip.npz: labels: shape \(12, 1\), expected \(12,\), a label for each row of clip.npz: features"),
        ({"labels": changed(Y, 5, -1)}, "clip.npz: labels: -1 in row 5, expected 0 or more"),
        ({"labels": changed(Y, 5, 2**63, np.uint64)}, "clip.npz: labels: 9223372036854775808 in row 5, too large for a class"),
        ({"labels": changed(Y, 5, 999)}, "clip.npz: features: 12 images with labels up to 999; number the classes from 0 on"),
        ({"split": changed(WORDS, 4, "valid")}, "clip.npz: split: 'valid' in row 4, expected train, val or test"),
        ({"split": changed(WORDS, 4, "", "S9")}, "clip.npz: split: '' in row 4, expected train, val or test"),
        ({"split": Y}, "clip.npz: split: int64, expected the words train, val and test"),
        ({"split": WORDS.astype(object)}, "clip.npz: split: cannot be read .*no Python objects"),
        ({"split": WORDS[:3]}, r"clip.npz: split: shape \(3,\), expected \(12,\)"),
        ({"split": np.full(12, "train")}, "clip.npz: split: no image is 'test'; without the array `split` a test set is cut"),
        ({"split": np.full(12, "test")}, "clip.npz: split: no image is 'train'"),
        ({"split": None, "labels": np.arange(12)}, "clip.npz: labels: no class has two images, so no test set can be cut"),
        ({"classes": np.array(2)}, r"clip.npz: classes: expected one integer, from 3 \(largest label \+ 1\) to 1,000,000"),
        ({"classes": np.array(3.0)}, "clip.npz: classes: expected one integer"),
        ({"classes": np.array([3])}, "clip.npz: classes: expected one integer"),
        ({"classes": np.array(10**9)}, "clip.npz: classes: expected one integer"),
        ({"split": None, "labels": changed(Y, 5, 10**6)}, "clip.npz: labels: 1000000 in row 5, too large for a class"),
        ({"weight": np.ones((3, 5))}, r"clip.npz: weight: float64 of shape \(3, 5\), expected floating point of \(3, 4\)"),
        ({"classes": np.array(4)}, r"clip.npz: weight: float32 of shape \(3, 4\), expected floating point of \(4, 4\)"),
        ({"bias": np.array([0, 0, 0])}, r"clip.npz: bias: int64 of shape \(3,\), expected floating point of \(3,\)"),
        ({"bias": np.array([0, np.nan, 0])}, "clip.npz: bias: NaN or infinite values; leave weight and bias out"),
        ({"bias": None}, "clip.npz: weight: has no bias beside it; a classifier has both"),
        ({"weight": None}, "clip.npz: bias: has no weight beside it"),
        ({"test_features": X}, "clip.npz: holds test_features and features: keep either"),
        ({"features": None, "labels": None, "split": None, "train_features": X}, "clip.npz: train_labels: missing; found"),
    ],
)
def test_an_unsound_file_is_refused_in_one_line_and_nothing_is_written(convert, changes, message):  # noqa: F811
    make_npz(content())
    convert("clip.npz")
    before = TARGET.read_bytes()
    make_npz(content(**changes))
    with pytest.raises(InputError, match=f"^{message}") as caught:
        convert("clip.npz")
    assert "\n" not in str(caught.value)
    assert TARGET.read_bytes() == before
    assert [path for path in Path("data").rglob("*") if path.is_file()] == [TARGET]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "clip.npz: test_labels: missing"),
        ({"val_features": None}, "clip.npz: val_features: missing"),
        ({"train_labels": None, "train_features": None}, "clip.npz: train_features: missing"),
        (
            {"test_features": np.ones((3, 5), "f4")},
            r"clip.npz: test_features: shape \(3, 5\), expected \(n, 4\) as in clip.npz: train_feat",
        ),
        ({"val_features": X[:0], "val_labels": Y[:0]}, r"clip.npz: val_features: shape \(0, 4\), expected \(n, d\)"),
        ({"test_features": changed(X[:3], (1, 1), np.nan)}, "clip.npz: test_features: NaN, infinite or too large for float32 in row 1"),
    ],
)
def test_unsound_parts_are_refused(convert, changes, message):  # noqa: F811
    np.savez("clip.npz", **{name: array for name, array in {**parted(content()), **changes}.items() if array is not None})
    with pytest.raises(InputError, match=f"^{message}"):
        convert("clip.npz")


def test_a_file_that_lies_where_the_result_would_go_is_not_written_over(convert):  # noqa: F811
    Path("data/imported").mkdir(parents=True)
    write_h5(Path("data/imported/clip.h5"), content(split=WORDS.astype("S5")))
    before = Path("data/imported/clip.h5").read_bytes()
    with pytest.raises(InputError, match="data/imported/clip.h5: would be written over; choose another --name"):
        convert("data/imported/clip.h5")
    assert Path("data/imported/clip.h5").read_bytes() == before
    convert("data/imported/clip.h5", "--name", "other")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clip.npz", "--test", "0.5"], "clip.npz: says itself which images are test images; leave --test and --val out"),
        (["parts.npz", "--val", "0.1"], "parts.npz: says itself which images are test images"),
        (["clip.npz", "--labels", "y.npy"], "clip.npz: has labels or a split itself; leave --labels out"),
        (["parts.npz", "--split", "y.npy"], "parts.npz: has labels or a split itself; leave --split out"),
        (["bare.npz", "--test", "0"], "--test, --val: expected shares"),
        (["bare.npz", "--test", "nan"], "--test, --val: expected shares"),
        (["bare.npz", "--test", "0.5", "--val", "0.5"], "--test, --val: expected shares"),
        (["bare.npz", "--seed", "-1"], "--seed, --epochs: expected a seed"),
        (["bare.npz", "--epochs", "0"], "--seed, --epochs: expected a seed"),
        (["bare.npz", "--name", "../clip"], "bare.npz: '../clip' cannot name a file here; give a --name of letters, digits, _ and -"),
        (["vit b.16.npz"], "vit b.16.npz: 'vit b.16' cannot name a file here"),
        (["missing.npz"], "missing.npz: not found"),
        (["bare.npz", "--split", "missing.npy"], "missing.npy: not found"),
        (["clip.csv"], "clip.csv: no features file that is known here; expected .npz, .npy, .h5 or .hdf5"),
        (["objects.npy", "--labels", "y.npy"], "objects.npy: cannot be read .*no Python objects"),
        (["pickle.npy", "--labels", "y.npy"], "pickle.npy: cannot be read .*no Python objects"),
        (["pickle.npz"], "pickle.npz: not a complete .npz file"),
        (["half.npz"], "half.npz: not a complete .npz file"),
        (["array.npz"], "array.npz: not a complete .npz file"),
        (["flipped.npz"], "flipped.npz: features: cannot be read"),
        (["half.npy", "--labels", "y.npy"], "half.npy: cannot be read"),
        (["half.h5"], "half.h5: not a complete HDF5 file"),
        (["group.h5"], "group.h5: features: expected an array, got Group"),
        (["ragged.h5"], "ragged.h5: features: cannot be read .*no Python objects"),
        (["ours.h5"], "ours.h5: is a features file of this project already; copy it to data/imported/"),
    ],
)
def test_what_cannot_be_read_or_makes_no_sense_is_refused(convert, arguments, message):  # noqa: F811
    arrays = content()
    np.savez("clip.npz", **arrays)
    np.savez("parts.npz", **parted(arrays))
    np.savez("bare.npz", features=X, labels=Y)
    np.save("y.npy", Y)
    np.save("objects.npy", X.astype(object), allow_pickle=True)
    for name in ("pickle.npy", "pickle.npz"):
        Path(name).write_bytes(pickle.dumps(X))
    Path("half.npz").write_bytes(Path("clip.npz").read_bytes()[:500])
    Path("half.npy").write_bytes(Path("y.npy").read_bytes()[:-8])
    Path("array.npz").write_bytes(Path("y.npy").read_bytes())
    whole = bytearray(Path("bare.npz").read_bytes())
    whole[whole.index(X.tobytes())] ^= 1
    Path("flipped.npz").write_bytes(whole)
    write_h5("group.h5", {"features/x": X, "labels": Y})
    Path("half.h5").write_bytes(Path("group.h5").read_bytes()[:1000])
    with h5py.File("ragged.h5", "w") as file:
        file.create_dataset("features", (12,), h5py.vlen_dtype(np.float32))
    with h5py.File("ours.h5", "w") as file:
        file.attrs["schema"] = features.SCHEMA
    with pytest.raises(InputError, match=f"^{message}") as caught:
        convert(*arguments)
    assert "\n" not in str(caught.value)
    assert not Path("data/imported").exists() or list(Path("data/imported").iterdir()) == []
