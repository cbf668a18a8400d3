"""Stage one: schedules, batches, and what a run of it on the digits gives; `extract` after it."""

import csv
import dataclasses
import itertools
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from tqdm import tqdm

from pipeline import augment, backbone, extract, features, images, inference, optimiser, params, recipe, stage_one, train
from pipeline.feed import Feed
from pipeline.files import InputError
from pipeline.network import Network
from pipeline.objective import Objective, batch_loss
from pipeline.sampling import epoch_order
from tests.conftest import ROOT, edit, method, process, stage


def test_cosine_with_warm_up(workspace):
    section = method(epochs=20, warmup_epochs=5, lr=0.4).train
    rates = [optimiser.learning_rate(section, epoch) for epoch in np.linspace(0, 20, 81)]
    for epoch, rate in zip(np.linspace(0, 20, 81), rates, strict=True):
        expected = 0.4 * epoch / 5 if epoch < 5 else 0.2 * (1 + math.cos(math.pi * (epoch - 5) / 15))
        assert rate == pytest.approx(expected)
    assert max(rates) == 0.4
    assert rates[-1] == pytest.approx(0)


def test_steps_are_those_of_ldam_drw(workspace):
    section = method(epochs=200, warmup_epochs=5, schedule="step").train
    at = [optimiser.learning_rate(section, epoch) for epoch in (1, 5, 100, 160, 160.01, 180, 180.01, 200)]
    assert at == pytest.approx([0.02, 0.1, 0.1, 0.1, 0.001, 0.001, 0.00001, 0.00001])


def test_an_epoch_is_cut_into_batches():
    assert [rows.tolist() for rows in stage_one.batches(np.arange(10)[::-1], 4)] == [[9, 8, 7, 6], [5, 4, 3, 2], [1, 0]]


def test_a_last_batch_of_one_image_is_left_out():
    assert [len(rows) for rows in stage_one.batches(np.arange(101), 25)] == [25, 25, 25, 25]


CHOICES = [
    {},
    {"loss": "graloss"},
    {"mix": "mfw"},
    {"mix": "mfw", "reweight": "deferred"},
    {"loss": "graloss", "mix": "mfw", "reweight": "class_balanced", "sampler": "progressive", "schedule": "step", "augment": "plain"},
    {"loss": "ldam", "mix": "remix", "reweight": "deferred", "sampler": "square_root"},
    {"loss": "focal", "mix": "manifold_mixup", "sampler": "class_balanced"},
    {"loss": "cdt", "mix": "mixup", "reweight": "class_balanced"},
    {"augment": "large", "precision": "bf16"},
]


@pytest.mark.parametrize("choices", CHOICES)
def test_every_choice_trains_and_the_same_seed_gives_the_same_weights(digits, choices):
    first, again, other = (stage_one.fit(method(**choices), digits, seed) for seed in (0, 0, 1))
    weights = [torch.cat([p.flatten() for p in trained.network.state_dict().values()]) for trained in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert (first.curve, first.classes) == (again.curve, again.classes)
    assert all(math.isfinite(row["loss"]) for row in first.curve)


def test_stage_one_learns_the_digits(digits):
    network, curve, classes = stage_one.fit(method(epochs=15, batch=32, lr=0.2), digits, 0)
    assert [row["epoch"] for row in curve] == list(range(1, 16))
    assert curve[-1]["val_accuracy"] > 60
    assert 100 * inference.accuracy(network, digits.val, digits, 7) == pytest.approx(curve[-1]["val_accuracy"])
    assert 100 * inference.accuracy(network, digits.train, digits, 7) == pytest.approx(curve[-1]["train_accuracy"])  # all are watched
    assert [row["epoch"] for row in classes[::10]] == [5, 10, 15]
    assert [row["class"] for row in classes[-10:]] == list(range(10))
    assert [row["train_images"] for row in classes[-10:]] == digits.class_counts.tolist()


@pytest.mark.parametrize("sampler", ["instance", "class_balanced", "progressive"])
def test_what_an_epoch_draws_is_a_function_of_seed_and_epoch(digits, sampler, monkeypatch):
    """The second epoch on its own, on a network that never saw the first, gets the same images in the same order, mixed alike."""
    chosen, shown = method(mix="mfw", sampler=sampler, epochs=3), []
    original = Network.features

    def recorded(network, x, mix=None):
        if network.training:
            shown.append((x.clone(), mix.partner, mix.weight))
        return original(network, x, mix)

    monkeypatch.setattr(Network, "features", recorded)
    stage_one.fit(chosen, digits, 4)
    whole = shown[len(shown) // 3 : 2 * len(shown) // 3]
    shown.clear()
    network = stage_one.new_network(chosen, digits, 9)
    objective = Objective(network, digits.class_counts, chosen.loss, chosen.mixing, chosen.reweighting, False)
    epoch = stage_one.batches(epoch_order(sampler, digits.train.labels, 3, 4)(1), chosen.train.batch)
    feed = Feed(digits, augment.shift, objective.device)
    stage_one.run_epoch(1, epoch, chosen.train, objective, optimiser.SGD(network.parameters(), 0), feed, 4, tqdm(disable=True))
    assert len(shown) == len(whole) > 1
    for alone, within in zip(shown, whole, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(alone, within, strict=True))


def test_rows_of_classes_come_every_so_many_epochs_and_last(digits):
    trained = stage_one.fit(method(epochs=5, watch={"images": 50, "every": 2, "after": 2}), digits, 0)
    assert [row["epoch"] for row in trained.classes[::10]] == [2, 4, 5]


def test_watching_more_images_changes_nothing_but_what_is_measured(digits):
    few, all_of_them = (stage_one.fit(method(watch={"images": images, "every": 1, "after": 2}), digits, 0) for images in (40, 400))
    for a, b in zip(few.network.state_dict().values(), all_of_them.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert [row["loss"] for row in few.curve] == [row["loss"] for row in all_of_them.curve]


def test_alpha_stands_in_the_curve_of_graloss_alone(digits):
    assert [row["alpha"] for row in stage_one.fit(method(epochs=4, loss="graloss"), digits, 0).curve] == [
        2 ** (e / 4) - 1 for e in range(4)
    ]
    assert [row["alpha"] for row in stage_one.fit(method(), digits, 0).curve] == [None, None]


def test_without_validation_its_column_is_empty(digits):
    trained = stage_one.fit(method(), dataclasses.replace(digits, val=None), 0)
    train.write_rounded(train.CURVE, trained.curve)
    with train.CURVE.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["val_accuracy"] for row in rows] == ["", ""]
    assert list(rows[0]) == ["epoch", "loss", "lr", "alpha", "train_accuracy", "val_accuracy"]


def test_grey_pictures_have_no_autoaugment(digits):
    with pytest.raises(InputError, match="train.augment: 'autoaugment' is a policy for colour images, and these are grey"):
        recipe.check_images(method(augment="autoaugment").train, digits)


def test_autoaugment_trains_and_draws_from_the_seed():
    rng = np.random.default_rng(0)
    split = images.Images(rng.integers(0, 256, (40, 16, 16, 3), np.uint8), np.repeat([0, 1], [30, 10]))
    data = images.ImageSet(split, None, split, np.array([30, 10]), ["a", "b"], np.full(3, 0.5), np.full(3, 0.2), 16)
    tree = params.read(ROOT / "params.yaml")
    tree["train"] |= {"augment": "autoaugment", "epochs": 2, "warmup_epochs": 0, "batch": 8}
    first, again, other = (stage_one.fit(recipe.read(tree), data, seed) for seed in (0, 0, 1))
    assert first.curve == again.curve
    assert first.curve != other.curve


COMBINATIONS = {name: params.known(name) for name in ("losses", "mixing", "reweighting")}


@pytest.mark.parametrize("sampler", ["instance", "class_balanced", "square_root", "progressive"])
def test_all_choices_combine_but_class_sizes_with_a_class_balanced_sampler(workspace, sampler):
    """7 losses x 5 mixings x 3 re-weightings: one forward and backward pass each, or the one refusal."""
    for loss, mix, reweight in itertools.product(*COMBINATIONS.values()):
        balancing = {"logit_adjust", "balanced_softmax", "graloss", "class_balanced", "deferred"} & {loss, reweight}
        if sampler == "class_balanced" and balancing:
            with pytest.raises(InputError, match=r"params.yaml: train.(loss|reweight): '\w+' corrects for class sizes"):
                method(loss=loss, mix=mix, reweight=reweight, sampler=sampler)
            continue
        chosen = method(loss=loss, mix=mix, reweight=reweight, sampler=sampler)
        counts, labels = torch.tensor([500.0, 80.0, 9.0, 2.0]), torch.arange(8) % 4
        drawn = chosen.mixing.build(counts)(labels, np.random.default_rng(0))
        logits = torch.randn(8, 4, requires_grad=True)
        value = batch_loss(logits, labels, drawn, chosen.loss.build(counts), chosen.reweighting.build(counts)(0.9), 0.9)
        value.backward()
        assert value > 0
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", ["ce", "ldam"])
def test_extract_writes_what_the_network_gives(digits, loss):
    network = stage_one.fit(method(loss=loss), digits, 0).network
    extract.write(extract.FILE, network, digits, extract.Extract(batch=37))
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
    network = stage_one.fit(method(), digits, 0).network
    for name, batch in (("a", 100), ("b", 37), ("c", 100)):
        extract.write(workspace / f"{name}.h5", network, digits, extract.Extract(batch=batch))
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
    network = Network([torch.nn.AvgPool2d(32)], 3, 4)
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
        extract.write(workspace / "f.h5", network, data, extract.Extract(batch=128))
    assert peaks[1] - peaks[0] < 30e6


def test_features_that_are_not_finite_are_refused_and_nothing_is_left(digits, workspace):
    network = stage_one.fit(method(), digits, 0).network
    with torch.no_grad():
        network.groups[3][0].body[0].weight.fill_(float("nan"))
    with pytest.raises(InputError, match="NaN or infinite features for train images from 0: stage one diverged"):
        extract.write(extract.FILE, network, digits, extract.Extract())
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


AS_WELL = {
    "mix: mfw": [("mfw: {after: 2", "mfw: {after: 5")],
    "mix: manifold_mixup": [("after: [0, 2, 3]", "after: [0, 5]")],
    "sampler: class_balanced": [("reweight: none", "reweight: deferred")],
    "loss: graloss": [("c: 2.0, s: 1.0", "c: 1.0, s: 1.0")],
}


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
        (
            ("mix: none ", "mix: manifold_mixup "),
            "params.yaml: mixing.manifold_mixup.after: the backbone 'cifar_resnet' has 4 groups (stem, stage 1, stage 2, stage 3), got 5",
        ),
        (
            ("sampler: instance", "sampler: class_balanced"),
            "params.yaml: train.reweight: 'deferred' corrects for class sizes that sampler: class_balanced has already made",
        ),
        (
            ("watch: {images: 2000", "watch: {images: 0"),
            "params.yaml: train.watch.images: input should be greater than or equal to 1, got 0",
        ),
        (("every: 5, after: 2", "every: 5, after: 9"), "params.yaml: train.watch.after: the backbone 'cifar_resnet' has 4 groups"),
        (("loss: ce ", "loss: graloss "), "params.yaml: losses.graloss: c = 1 gives α = 0 throughout; the linear schedule is c: 1.0 with"),
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
        for old, new in AS_WELL.get(change[1].strip(), []):
            edit(workspace / "params.yaml", old, new)
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    done = process("train", check=False)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 1
    assert len(lines) == 1
    assert (lines[0] + "\n").startswith(message)
    assert not any(line.endswith(" torch") for line in done.stderr.splitlines())
    assert not (workspace / "data").exists()


def test_features_file_has_no_time_or_place_in_it(digits):
    network = stage_one.fit(method(), digits, 0).network
    extract.write(extract.FILE, network, digits, extract.Extract())
    with h5py.File(extract.FILE) as file:
        assert set(file.attrs) == {"schema", "dim", "classes", "class_counts"}
