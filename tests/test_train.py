"""Stage one: schedules, batches, and what a run of it on the digits gives; `extract` after it."""

import csv
import dataclasses
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pipeline import backbone, extract, features, images, inference, params, prepare, train
from pipeline.files import InputError
from tests.conftest import edit, stage


def method(**changes):
    tree = params.read()
    tree["train"] |= {"epochs": 2, "warmup_epochs": 1, "batch": 64, **changes}
    return train.read_params(tree)


@pytest.fixture
def digits(workspace):
    """The prepared digits, in an empty workspace."""
    prepare.main()
    return images.load()


def test_cosine_with_warm_up(workspace):
    section = method(epochs=20, warmup_epochs=5, lr=0.4).train
    rates = [train.learning_rate(section, epoch) for epoch in np.linspace(0, 20, 81)]
    for epoch, rate in zip(np.linspace(0, 20, 81), rates, strict=True):
        expected = 0.4 * epoch / 5 if epoch < 5 else 0.2 * (1 + math.cos(math.pi * (epoch - 5) / 15))
        assert rate == pytest.approx(expected)
    assert max(rates) == 0.4
    assert rates[-1] == pytest.approx(0)


def test_steps_are_those_of_ldam_drw(workspace):
    section = method(epochs=200, warmup_epochs=5, schedule="step").train
    at = [train.learning_rate(section, epoch) for epoch in (1, 5, 100, 160, 160.01, 180, 180.01, 200)]
    assert at == pytest.approx([0.02, 0.1, 0.1, 0.1, 0.001, 0.001, 0.00001, 0.00001])


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(workspace):
    section, labels = method(batch=32).train, np.zeros(101, int)
    epochs = [train.batches(section, labels, seed=4)(epoch) for epoch in (0, 0, 1)]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == list(range(101))
        assert [len(rows) for rows in batches] == [32, 32, 32, 5]
    assert np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[1]))
    assert not np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[2]))


def test_a_last_batch_of_one_image_is_left_out(workspace):
    batches = train.batches(method(batch=25).train, np.zeros(101, int), 0)(0)
    assert [len(rows) for rows in batches] == [25, 25, 25, 25]


def test_class_balanced_batches(workspace):
    labels = np.repeat([0, 1, 2], [90, 9, 1])
    section = method(sampler="class_balanced", epochs=6).train
    epochs = [np.concatenate(train.batches(section, labels, 0)(epoch)) for epoch in range(6)]
    assert np.ptp(np.bincount(labels[epochs[0]])) <= 4
    drawn = np.bincount(np.concatenate(epochs), minlength=100)
    assert set(drawn[:90]) == {2, 3}  # over the whole run every image of the largest class is drawn alike


CHOICES = [
    {},
    {"loss": "graloss"},
    {"mix": "mfw"},
    {"mix": "mfw", "reweight": "deferred"},
    {"loss": "graloss", "mix": "mfw", "reweight": "class_balanced", "sampler": "class_balanced", "schedule": "step", "augment": "plain"},
    {"augment": "large", "precision": "bf16"},
]


@pytest.mark.parametrize("choices", CHOICES)
def test_every_choice_trains_and_the_same_seed_gives_the_same_weights(digits, choices):
    first, again, other = (train.fit(method(**choices), digits, seed) for seed in (0, 0, 1))
    weights = [torch.cat([p.flatten() for p in network.state_dict().values()]) for network, _ in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first[1] == again[1]
    assert first[1][-1]["loss"] < 2.5


def test_stage_one_learns_the_digits(digits):
    network, curve = train.fit(method(epochs=15, batch=32, lr=0.2), digits, 0)
    assert [row["epoch"] for row in curve] == list(range(1, 16))
    assert curve[-1]["val_accuracy"] > 60
    assert 100 * inference.accuracy(network, digits.val, digits, 7) == pytest.approx(curve[-1]["val_accuracy"])


def test_without_validation_its_column_is_empty(digits):
    _, curve = train.fit(method(), dataclasses.replace(digits, val=None), 0)
    train.write_curve(curve)
    with train.CURVE.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["val_accuracy"] for row in rows] == ["", ""]
    assert list(rows[0]) == ["epoch", "loss", "lr", "train_accuracy", "val_accuracy"]


def test_a_diverging_loss_stops_with_what_to_try(digits):
    with pytest.raises(InputError, match=r"the loss is (nan|inf) in epoch \d+ at a learning rate of .*: lower train.lr"):
        train.fit(method(lr=1e9, warmup_epochs=0, epochs=5), digits, 0)


def test_extract_writes_what_the_network_gives(digits):
    network, _ = train.fit(method(), digits, 0)
    extract.write(extract.FILE, network, digits, batch=37)
    loaded = features.load(extract.FILE, "train", "val", "test")
    network = network.cpu()
    for name, split in loaded.items():
        pixels = np.asarray(getattr(digits, name).images) / 255.0
        x = torch.tensor((pixels - digits.mean) / digits.std, dtype=torch.float32).permute(0, 3, 1, 2)
        with torch.no_grad():
            expected = network.features(x)
            logits = network(x)
        np.testing.assert_allclose(split.features, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(split.classifier.scores(split.features), logits, rtol=1e-4, atol=1e-4)
        assert np.array_equal(split.labels, getattr(digits, name).labels)


def test_the_batch_of_extract_changes_nothing_but_rounding(digits, workspace):
    network, _ = train.fit(method(), digits, 0)
    for name, batch in (("a", 100), ("b", 37), ("c", 100)):
        extract.write(workspace / f"{name}.h5", network, digits, batch)
    a, b = (features.load(workspace / f"{name}.h5", "train")["train"] for name in ("a", "b"))
    np.testing.assert_allclose(a.features, b.features, rtol=1e-4, atol=1e-6)
    assert (workspace / "a.h5").read_bytes() == (workspace / "c.h5").read_bytes()


def anonymous_memory():
    """This process's memory that no file backs, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_memory_of_extract_does_not_grow_with_the_data_set(workspace, monkeypatch):
    """Over 92 MB of mapped images, extract holds no more than over 3 MB."""
    network = backbone.build("cifar_resnet", {"depth": 8, "width": 2}, 3, 4)
    peaks, original = [], extract.finite

    def watched(*arguments):
        peaks[-1] = max(peaks[-1], anonymous_memory())
        return original(*arguments)

    monkeypatch.setattr(extract, "finite", watched)
    for n in (1_000, 30_000):
        pixels = np.memmap(workspace / f"{n}.u1", "u1", "w+", shape=(n, 32, 32, 3))
        pixels[:] = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
        pixels.flush()
        pixels = np.memmap(workspace / f"{n}.u1", "u1", "r", shape=(n, 32, 32, 3))
        split = images.Images(pixels, np.arange(n) % 4)
        data = images.ImageSet(split, None, split, np.full(4, n // 4), list("abcd"), np.full(3, 0.5), np.full(3, 0.2), 32)
        peaks.append(0)
        extract.write(workspace / "f.h5", network, data, 128)
    assert peaks[1] - peaks[0] < 30e6


def test_features_that_are_not_finite_are_refused_and_nothing_is_left(digits, workspace):
    network, _ = train.fit(method(), digits, 0)
    with torch.no_grad():
        network.groups[3][0].body[0].weight.fill_(float("nan"))
    with pytest.raises(InputError, match="NaN or infinite features for train images from 0: stage one diverged"):
        extract.write(extract.FILE, network, digits, 64)
    assert not extract.FILE.exists()
    assert list((workspace / "data/.tmp").iterdir()) == []


def test_a_backbone_of_other_classes_is_refused(digits, workspace):
    network = backbone.build("cifar_resnet", {"depth": 8}, 1, 7)
    backbone.save(network, "cifar_resnet", {"depth": 8}, 1)
    done = stage("extract", check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "data/backbone.safetensors: made for 1 channels and 7 classes, the images have 1 and 10; run `dvc repro train`\n"
    )
    assert not (workspace / "data/features.h5").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("loss: ce ", "loss: cee "),
            "params.yaml: train.loss: no 'cee' in pipeline/losses/; known: balanced_softmax, cdt, ce, focal, graloss, ldam, logit_adjust",
        ),
        (("mix: none", "mix: mixx"), "params.yaml: train.mix: no 'mixx' in pipeline/mixing/; known: "),
        (("reweight: none", "reweight: drw"), "params.yaml: train.reweight: no 'drw' in pipeline/reweighting/; known: "),
        (
            ("family: cifar_resnet", "family: vgg"),
            "params.yaml: train.backbone.family: no 'vgg' in pipeline/backbones/; known: cifar_resnet",
        ),
        (("depth: 8", "depth: 9"), "params.yaml: train.backbone.depth: depth should be 6n + 2: 8, 14, 20, 26, 32, …, got 9"),
        (
            ("mix: none ", "mix: mfw "),
            "params.yaml: mixing.mfw.after: the backbone 'cifar_resnet' has 4 groups (stem, stage 1, stage 2, stage 3)",
        ),
        (("epochs: 60", "epochs: 0"), "params.yaml: train.epochs: input should be greater than or equal to 1, got 0"),
        (("epochs: 60", "epochs: 5"), "params.yaml: train: warmup_epochs (5) should be less than epochs (5)\n"),
        (("lr: 0.1\n", "lr: fast\n"), "params.yaml: train.lr: input should be a valid number, got 'fast'"),
        (
            ("augment: shift", "augment: flip"),
            "params.yaml: train.augment: input should be 'none', 'shift', 'plain', 'large' or 'autoaugment', got 'flip'",
        ),
        (("batch: 32\n", "batches: 32\n"), "params.yaml: train.b"),
        (("train: 0, heads", "train: -1, heads"), "params.yaml: seed.train: input should be greater than or equal to 0, got -1"),
        (None, "data/images.h5: not found; run `dvc repro prepare` first"),
    ],
)
def test_bad_input_is_one_line_before_torch_is_imported(workspace, change, message, monkeypatch):
    if change:
        edit(workspace / "params.yaml", *change)
        if change[1] == "mix: mfw ":
            edit(workspace / "params.yaml", "after: 2", "after: 5")
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    done = stage("train", check=False)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 1
    assert len(lines) == 1
    assert (lines[0] + "\n").startswith(message)
    assert not any(line.endswith(" torch") for line in done.stderr.splitlines())
    assert not (workspace / "data").exists()


def test_features_file_has_no_time_or_place_in_it(digits):
    network, _ = train.fit(method(), digits, 0)
    extract.write(extract.FILE, network, digits, 64)
    with h5py.File(extract.FILE) as file:
        assert set(file.attrs) == {"schema", "dim", "classes", "class_counts"}
