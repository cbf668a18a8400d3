"""Features from elsewhere become a file that the heads read, or one line says what is wrong with them."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from ruamel.yaml import YAML
from sklearn.linear_model import LogisticRegression

from pipeline import concatenate, features, import_features, params
from pipeline.files import InputError
from pipeline.metrics import per_class_accuracy
from tests.test_dvc import clone, ran, run

TARGET = Path("data/imported/clip.h5")
SPLITS = ("train", "val", "test")


@pytest.fixture
def convert(workspace, monkeypatch, capsys):
    """Runs the command in an empty workspace; gives what it prints."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["import_features", *map(str, arguments)])
        import_features.main()
        return capsys.readouterr().out

    return call


def content(**changes):
    """Arrays of a sound file: 3 classes, 4 dimensions, 12 images, 6 of them for training, and a classifier. None leaves one out."""
    rng = np.random.default_rng(0)
    arrays = {
        "features": rng.normal(size=(12, 4)).astype(np.float32),
        "labels": np.array([0, 0, 0, 1, 1, 2, 0, 1, 2, 0, 1, 2]),
        "split": np.array(["train"] * 6 + ["val"] * 3 + ["test"] * 3)[np.argsort(np.arange(12) % 4, kind="stable")],
        "weight": rng.normal(size=(3, 4)).astype(np.float32),
        "bias": np.arange(3, dtype=np.float32),
    }
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


def parted(arrays, join="_"):
    """The same, with arrays for each split."""
    where = {split: arrays["split"] == split for split in SPLITS}
    parts = {f"{split}{join}{what}": arrays[what][where[split]] for split in SPLITS for what in ("features", "labels")}
    return parts | {name: array for name, array in arrays.items() if name in ("weight", "bias", "classes")}


def write_h5(path, arrays, **options):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **(options if np.ndim(array) else {}))


def make_npz(arrays):
    np.savez("clip.npz", **arrays)
    return ["clip.npz"]


def make_compressed(arrays):
    np.savez_compressed("clip.npz", **arrays, filenames=np.arange(12))
    return ["clip.npz"]


def make_parts(arrays):
    np.savez("clip.npz", **parted(arrays))
    return ["clip.npz"]


def make_double_bytes(arrays):
    double = np.asfortranarray(arrays["features"].astype(">f8"))
    np.savez("clip.npz", **arrays | {"features": double, "labels": arrays["labels"].astype(np.uint8), "split": arrays["split"].astype("S")})
    return ["clip.npz"]


def make_h5(arrays):
    write_h5("clip.h5", arrays | {"split": arrays["split"].astype("S")}, chunks=True, compression="gzip")
    return ["clip.h5"]


def make_h5_strings(arrays):
    write_h5("clip.hdf5", {name: array for name, array in arrays.items() if name != "split"})
    with h5py.File("clip.hdf5", "a") as file:
        file.create_dataset("split", data=arrays["split"].astype(object), dtype=h5py.string_dtype())
    return ["clip.hdf5"]


def make_h5_groups(arrays):
    groups = {name.replace("weight", "classifier/weight").replace("bias", "classifier/bias"): a for name, a in parted(arrays, "/").items()}
    write_h5("clip.h5", groups)
    return ["clip.h5"]


@pytest.mark.parametrize("make", [make_npz, make_compressed, make_parts, make_double_bytes, make_h5, make_h5_strings, make_h5_groups])
def test_every_format_gives_the_same_bytes_and_passes_the_check_of_features(convert, make):
    arrays = content()
    said = convert(*make(arrays))
    assert "clip: 6 train + 3 val + 3 test images x 4 features; 3 classes, " in said
    assert f"stage-one classifier given -> {TARGET}\nnext: set `features: {TARGET}` in params.yaml, `dvc add" in said
    assert ("not used: filenames" in said) == (make is make_compressed)
    splits = features.load(TARGET, *SPLITS)
    for split in SPLITS:
        rows = arrays["split"] == split
        assert np.array_equal(splits[split].features, arrays["features"][rows])
        assert np.array_equal(splits[split].labels, arrays["labels"][rows])
    assert np.array_equal(splits["train"].stage_one("joint").weight, arrays["weight"])
    assert np.array_equal(splits["train"].stage_one("joint").bias, arrays["bias"])
    assert features.class_counts(TARGET).tolist() == splits["train"].class_counts.tolist()

    written = TARGET.read_bytes()
    Path("clip.npz").unlink(missing_ok=True)
    make_npz(arrays)
    assert "(replaced)" not in convert("clip.npz")
    assert TARGET.read_bytes() == written


def test_the_layout_is_that_of_extract(convert):
    make_npz(content())
    convert("clip.npz")
    with h5py.File(TARGET) as file:
        names = []
        file.visit(names.append)
        assert sorted(names) == sorted(
            [*SPLITS, "classifier", "classifier/weight", "classifier/bias"] + [f"{s}/{a}" for s in SPLITS for a in ("features", "labels")]
        )
        assert set(file.attrs) == {"schema", "dim", "classes", "class_counts", "imported"}
        assert dict(file["classifier"].attrs) == {"normalise": False, "scale": 1.0}
        order = [file[f"{split}/features"].id.get_offset() for split in SPLITS] + [file["classifier/weight"].id.get_offset()]
    assert order == sorted(order)  # contiguous, one behind the other


def test_npy_files_take_labels_and_split_beside_them_or_from_the_command_line(convert):
    arrays = content(weight=None, bias=None)
    np.save("clip_features.npy", arrays["features"])
    with pytest.raises(InputError, match="^clip_labels.npy: not found; it holds the labels of clip_features.npy, or --labels names"):
        convert("clip_features.npy")
    np.save("clip_labels.npy", arrays["labels"])
    assert "(cut: 0.2 of each class for test, 0 for val, seed 0)" in convert("clip_features.npy", "--no-classifier")
    np.save("clip_split.npy", arrays["split"])
    assert "(replaced)" in convert("clip_features.npy", "--no-classifier")
    beside = TARGET.read_bytes()
    for name in ("features", "labels", "split"):
        Path(f"clip_{name}.npy").rename({"features": "x.npy", "labels": "y.npy", "split": "s.npy"}[name])
    convert("x.npy", "--labels", "y.npy", "--split", "s.npy", "--name", "clip", "--no-classifier")
    assert TARGET.read_bytes() == beside
    np.savez("clip.npz", features=arrays["features"])
    convert("clip.npz", "--labels", "y.npy", "--split", "s.npy", "--no-classifier")
    assert TARGET.read_bytes() == beside


def test_half_precision_stays_half(convert):
    arrays = content(features=content()["features"].astype(np.float16))
    make_npz(arrays)
    convert("clip.npz")
    with h5py.File(TARGET) as file:
        assert file["test/features"].dtype == np.float16
    assert np.array_equal(features.load(TARGET, "val")["val"].features, arrays["features"][arrays["split"] == "val"])


def test_classes_may_have_no_image_and_training_may_lack_some(convert):
    make_npz(content(classes=np.array(5), weight=None, bias=None, labels=np.where(content()["split"] == "train", 0, 3)))
    assert "5 classes, 6 training images in the largest, 6 in the smallest, classes without any: 4" in convert("clip.npz", "--epochs", "1")
    assert features.load(TARGET, "train")["train"].stage_one("joint").classes == 5


def test_without_a_split_a_share_of_each_class_is_cut(convert):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(5), [40, 10, 3, 2, 1]))
    x = np.arange(56, dtype=np.float32)[:, None]  # the feature tells the row
    np.savez("clip.npz", features=x, labels=labels)
    assert "0.25 of each class for test, 0.1 for val, seed 0)" in convert("clip.npz", "--test", "0.25", "--val", "0.1", "--no-classifier")
    splits = features.load(TARGET, *SPLITS)
    counts = {split: np.bincount(splits[split].labels, minlength=5).tolist() for split in SPLITS}
    assert counts == {"train": [26, 6, 1, 1, 1], "val": [4, 1, 1, 0, 0], "test": [10, 3, 1, 1, 0]}
    rows = [splits[split].features[:, 0].astype(int) for split in SPLITS]
    assert sorted(np.concatenate(rows)) == list(range(56))
    assert all((np.diff(r) > 0).all() for r in rows)  # the file's order
    assert all(np.array_equal(labels[r], splits[split].labels) for split, r in zip(SPLITS, rows, strict=True))

    once = TARGET.read_bytes()
    convert("clip.npz", "--test", "0.25", "--val", "0.1", "--no-classifier")
    assert TARGET.read_bytes() == once
    convert("clip.npz", "--test", "0.25", "--val", "0.1", "--no-classifier", "--seed", "1")
    assert TARGET.read_bytes() != once


def long_tailed(kind, classes=20, dim=128, seed=0):
    """Training images of 200 down to 4 a class and 40 test images of each, around random means."""
    rng = np.random.default_rng(seed)
    counts = (200 * 50 ** (-np.arange(classes) / (classes - 1))).astype(int)
    labels = np.concatenate([np.repeat(np.arange(classes), counts), np.repeat(np.arange(classes), 40)])
    x = rng.normal(0, 0.3, (classes, dim))[labels] + rng.normal(size=(len(labels), dim)) + rng.normal(size=dim)
    if kind == "unit":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    if kind == "raw":
        x = 30 * np.maximum(x, 0)
    split = np.repeat(["train", "test"], [counts.sum(), 40 * classes])
    return {"features": x.astype(np.float32), "labels": labels, "split": split}


@pytest.mark.parametrize("kind", ["unit", "raw"])
def test_the_fitted_classifier_is_as_good_as_logistic_regression(convert, kind):
    arrays = long_tailed(kind)
    np.savez("clip.npz", **arrays)
    assert "stage-one classifier fitted in " in convert("clip.npz")
    train, test = features.load(TARGET, "train", "test").values()
    scale = np.sqrt((train.features.astype(float) ** 2).mean())
    oracle = LogisticRegression(max_iter=1000).fit(train.features / scale, train.labels)
    ours, theirs = train.stage_one("joint").predict(test.features), oracle.predict(test.features / scale)
    assert (ours == theirs).mean() > 0.85
    wanted, got = (per_class_accuracy(test.labels, predicted, 20).mean() for predicted in (theirs, ours))
    assert wanted > 35
    assert got > wanted - 2
    bias = np.full((len(train.labels), 1), np.sqrt(train.dim))  # on which the penalty lies as well
    penalised = LogisticRegression(max_iter=1000, fit_intercept=False).fit(np.hstack([train.features / scale, bias]), train.labels)
    apart = np.linalg.norm(train.classifier.weight * scale - penalised.coef_[:, :-1])
    assert apart < 0.25 * np.linalg.norm(penalised.coef_[:, :-1])  # without the penalty it is 0.35 and more

    once = TARGET.read_bytes()
    convert("clip.npz")
    assert TARGET.read_bytes() == once


def test_a_fit_that_is_skipped_is_said_by_the_heads_that_want_one(convert):
    make_npz(content(weight=None, bias=None))
    assert "stage-one classifier none" in convert("clip.npz", "--no-classifier")
    with pytest.raises(InputError, match="has no stage-one classifier .* which the head 'tau' starts from"):
        features.load(TARGET, "train")["train"].stage_one("tau")


def test_ctrl_c_is_a_line_and_leaves_the_old_file(convert, capsys, monkeypatch):
    make_npz(content())
    convert("clip.npz")
    before = TARGET.read_bytes()

    def pressed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(import_features, "fit", pressed)
    make_npz(content(weight=None, bias=None))
    with pytest.raises(SystemExit) as stopped:
        convert("clip.npz")
    assert stopped.value.code == 130
    assert capsys.readouterr().err.strip() == "import_features: stopped, nothing is written; run it again"
    assert TARGET.read_bytes() == before
    assert list(Path("data/.tmp").iterdir()) == []


def test_heads_run_on_imported_features_without_an_image(tmp_path):
    workspace = clone(tmp_path)
    tree = params.read(workspace / "params.yaml")
    tree["heads"] = {name: tree["heads"][name] for name in ("joint", "tau")}  # to be quick
    arrays = long_tailed("unit", classes=5, dim=16)
    np.savez(workspace / "clip.npz", **arrays, weight=np.eye(5, 16), bias=np.zeros(5))
    said = run(workspace, "python", "-m", "pipeline.import_features", "clip.npz")
    assert said.endswith(
        "next: set `features: data/imported/clip.h5` in params.yaml, `dvc add data/imported/clip.h5`, then `dvc repro evaluate deviation`\n"
    )
    with (workspace / "params.yaml").open("w") as file:
        YAML().dump(tree | {"features": "data/imported/clip.h5"}, file)
    run(workspace, "dvc", "add", "data/imported/clip.h5")
    output = run(workspace, "dvc", "repro", "evaluate", "deviation")
    assert sorted(ran(output)) == ["deviation", "evaluate", "head@joint", "head@tau"]
    assert "test accuracy in percent" in output
    (workspace / "clip.npz").unlink()
    run(workspace, "git", "add", "-A")
    assert run(workspace, "git", "ls-files", "data/imported") == "data/imported/clip.h5.dvc\n"
    assert not (workspace / "data/images.h5").exists()


def test_ten_thousand_classes_are_imported_and_put_side_by_side(convert, monkeypatch):
    labels = np.repeat(np.arange(10_000), 2)
    features_ = np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float32)
    np.savez("many.npz", features=features_, labels=labels, split=np.array(["train", "test"] * 10_000))
    for name in ("a", "b"):
        convert("many.npz", "--no-classifier", "--name", name)
    monkeypatch.setattr(sys, "argv", ["concatenate", "--name", "both", "data/imported/a.h5", "data/imported/b.h5"])
    concatenate.main()
    for name, dim in (("a", 2), ("both", 4)):
        path = Path(f"data/imported/{name}.h5")
        assert np.array_equal(features.class_counts(path), np.ones(10_000))
        assert features.load(path, "test")["test"].features.shape == (10_000, dim)
