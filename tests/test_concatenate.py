"""Features of several backbones side by side, and the mean of their classifiers."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline import concatenate, features, outcomes, params
from pipeline.classifier import Classifier
from pipeline.files import InputError
from tests.conftest import stage

TARGET = Path("data/imported/both.h5")
LABELS = {"train": [0, 0, 0, 1, 1, 2], "val": [0, 1, 2], "test": [0, 1, 2, 2]}


@pytest.fixture
def call(workspace, monkeypatch, capsys):
    """Runs the command in an empty workspace; gives what it prints."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["concatenate", *map(str, arguments)])
        concatenate.main()
        return capsys.readouterr().out

    return call


def write(name, seed, dim, views=2, labels=LABELS, pre_relu=True, cosine=False, classifier=True, dtype="f4"):
    """A features file as `extract` writes it."""
    rng = np.random.default_rng(seed)
    with h5py.File(name, "w") as file:
        file.attrs.update({"schema": features.SCHEMA, "dim": dim, "classes": 3, "class_counts": np.bincount(labels["train"], minlength=3)})
        for split, values in labels.items():
            file[f"{split}/features"] = rng.random((len(values), dim)).astype(dtype)
            file[f"{split}/labels"] = np.array(values)
            if pre_relu:
                file[f"{split}/pre_relu"] = rng.normal(size=(len(values), dim)).astype(dtype)
        if views:
            file["train/views"] = rng.random((views, len(labels["train"]), dim)).astype(dtype)
        if classifier:
            file["classifier/weight"] = rng.normal(size=(3, dim)).astype("f4")
            file["classifier/bias"] = rng.normal(size=3).astype("f4")
            file["classifier"].attrs.update({"normalise": cosine, "scale": 16.0 if cosine else 1.0})
    return Path(name)


def arrays(path):
    """Every data set of a file by name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def test_every_array_is_side_by_side_and_the_scores_are_the_mean(call):
    files = [write("a.h5", 0, 4), write("b.h5", 1, 6, views=3), write("c.h5", 2, 2)]
    said = call("--name", "both", *files)
    assert said.startswith("both: 6 train + 3 val + 4 test images x 12 features; stage-one classifier the mean of theirs -> data/imported/")
    ours, sources = arrays(TARGET), [arrays(file) for file in files]
    for name in ("train/features", "val/features", "test/features", "test/pre_relu"):
        assert np.array_equal(ours[name], np.hstack([source[name] for source in sources]))
    assert np.array_equal(ours["train/views"], np.concatenate([source["train/views"][:2] for source in sources], axis=2))
    assert all(np.array_equal(ours[f"{split}/labels"], values) for split, values in LABELS.items())
    test = features.load(TARGET, "test")["test"]
    each = [features.load(file, "test")["test"] for file in files]
    mean = np.mean([f.features.astype(float) @ f.classifier.weight.astype(float).T + f.classifier.bias for f in each], axis=0)
    np.testing.assert_allclose(test.classifier.scores(test.features), mean, rtol=1e-5, atol=1e-6)
    assert features.class_counts(TARGET).tolist() == [3, 2, 1]


def test_equal_files_give_equal_bytes(call):
    files = [write("a.h5", 0, 4), write("b.h5", 1, 6)]
    call("--name", "both", *files)
    once = TARGET.read_bytes()
    assert "(replaced)" not in call("--name", "both", *files)
    assert TARGET.read_bytes() == once
    assert f"-> {TARGET} (replaced)" in call("--name", "both", *reversed(files))


@pytest.mark.parametrize(
    ("others", "lacks"),
    [
        ({"views": 0}, "train/views"),
        ({"pre_relu": False}, "test/pre_relu"),
        ({"cosine": True}, "classifier/weight"),
        ({"classifier": False}, "classifier/weight"),
    ],
)
def test_what_one_file_lacks_is_left_out(call, others, lacks):
    said = call("--name", "both", write("a.h5", 0, 4), write("b.h5", 1, 6, **others))
    assert set(arrays("a.h5")) - set(arrays(TARGET)) >= {lacks}
    assert ("classifier none ->" in said) == lacks.startswith("classifier")
    assert features.load(TARGET, *LABELS)["test"].dim == 10


def test_half_precision_views_stay_half(call):
    call("--name", "both", write("a.h5", 0, 4, dtype="f2"), write("b.h5", 1, 6, dtype="f2"))
    assert arrays(TARGET)["train/views"].dtype == np.float16


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({**LABELS, "test": [0, 1, 2, 1]}, "b.h5: test/labels: not those of a.h5"),
        ({**LABELS, "train": [0, 0, 1, 1, 2]}, "b.h5: train/labels: not those of a.h5"),
        ({split: LABELS[split] for split in ("train", "test")}, "a.h5: has a split 'val' that the other file lacks"),
    ],
)
def test_other_images_are_refused_and_nothing_is_written(call, labels, message):
    with pytest.raises(InputError, match=message):
        call("--name", "both", write("a.h5", 0, 4), write("b.h5", 1, 6, labels=labels))
    assert not TARGET.exists() and not list(Path("data/.tmp").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "both", "a.h5"], "a.h5: expected two different files or more"),
        (["--name", "both", "a.h5", "a.h5"], "a.h5: expected two different files or more"),
        (["--name", "both", "a.h5", "here/../a.h5"], "here/../a.h5: expected two different files or more"),
        (["--name", "both", "a.h5", str(TARGET)], f"{TARGET}: would be written over; choose another --name"),
        (["--name", "../both", "a.h5", "b.h5"], "concatenate: '../both' cannot name a file here"),
        (["--name", "both", "a.h5", "missing.h5"], "missing.h5: not found"),
    ],
)
def test_a_wrong_command_is_a_line(call, arguments, message):
    write("a.h5", 0, 4)
    with pytest.raises(InputError) as error:
        call(*arguments)
    assert str(error.value).startswith(message)


def test_heads_fit_on_features_side_by_side(call):
    """With the commands of the pipeline: `joint` has the mean of the scores, and cRT trains on views of all backbones."""
    files = [write("a.h5", 0, 4), write("b.h5", 1, 6)]
    call("--name", "both", *files)
    tree = params.read() | {"features": str(TARGET), "heads": {"joint": {"kind": "joint"}, "crt": {"kind": "crt", "epochs": 2, "lr": 0.1}}}
    with Path("params.yaml").open("w") as file:
        YAML().dump(tree, file)
    for command in (("heads.joint", "joint"), ("heads.crt", "crt"), ("evaluate",)):
        stage(*command)
    each = [features.load(file, "test")["test"] for file in files]
    mean = sum(split.classifier.scores(split.features) for split in each)
    labels, said = outcomes.read()
    assert labels.tolist() == LABELS["test"]
    assert np.array_equal(said["joint"].predicted, mean.argmax(1))
    assert Classifier.load(Path("data/heads/crt.safetensors")).dim == 10
