"""Options of `extract` against oracles: views, recalibration, half precision, features before the last ReLU."""

import copy
import dataclasses
import time

import h5py
import numpy as np
import pytest
import torch
from torch.optim.swa_utils import update_bn

from pipeline import augment, backbone, check, extract, features, inference, params, recipe, views
from pipeline.extract import Extract
from pipeline.feed import Feed
from pipeline.files import InputError
from pipeline.network import Network
from pipeline.sampling import class_balanced
from tests.conftest import edit, process


def norms(network):
    return [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def used(network):
    """The network with BatchNorm as if it had been trained: all of its numbers matter."""
    generator = torch.Generator().manual_seed(1)
    for layer in norms(network):
        for tensor, low, high in ((layer.running_mean, -1, 1), (layer.running_var, 0.5, 2), (layer.weight, 0.5, 2), (layer.bias, -1, 1)):
            tensor.data.uniform_(low, high, generator=generator)
    return network.eval()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return used(backbone.build("cifar_resnet", {"depth": 8, "width": 4}, 1, 10))


@pytest.fixture
def written(digits, network):
    """A function that writes the digits' features with these options and reads them again."""

    def write(**options):
        extract.write(extract.FILE, copy.deepcopy(network), digits, Extract(**options))
        return features.load(extract.FILE, "train", "val", "test")

    return write


def normalised(pixels, data):
    return ((pixels / 255.0 - torch.tensor(data.mean)) / torch.tensor(data.std)).permute(0, 3, 1, 2).float()


def test_a_view_is_what_a_loop_by_hand_gives(digits, network, written):
    found = written(views=3, augment="plain", batch=50)["train"].views
    generator, expected, n = np.random.default_rng([views.SEED, 1, 6]), [], len(digits.train.labels)
    assert n > views.TOGETHER
    for start in range(0, n, views.TOGETHER):
        pixels = torch.from_numpy(np.array(digits.train.images[start : start + views.TOGETHER]))
        with torch.no_grad():
            expected.append(network.features(normalised(augment.plain(pixels, 8, generator), digits)))
    np.testing.assert_allclose(found[1], torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_views_differ_from_each_other_and_from_the_plain_features(written):
    train = written(views=3, augment="shift")["train"]
    assert train.views.shape == (3, *train.features.shape)
    assert train.views.flags.aligned
    versions = [train.features, *train.views]
    for i, one in enumerate(versions):
        for other in versions[:i]:
            moved = (one != other).any(1)
            assert moved.mean() > 0.5  # a shift leaves one in nine where it is


def test_the_batch_changes_nothing_in_views_but_rounding(written):
    one, other = (written(views=1, augment="shift", batch=batch)["train"].views.copy() for batch in (37, 300))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_options_add_to_a_file_and_leave_the_rest(written):
    plain = written()
    more = written(views=1, augment="shift", pre_relu=True)
    for name, split in plain.items():
        assert split.views is None
        assert split.pre_relu is None
        assert np.array_equal(split.features, more[name].features)
        assert np.array_equal(split.labels, more[name].labels)
        assert (more[name].views is None) == (name != "train")
    with h5py.File(extract.FILE) as file:
        assert file["train/views"].chunks is None
        assert {key: sorted(file[key]) for key in ("train", "val")} == {
            "train": ["features", "labels", "pre_relu", "views"],
            "val": ["features", "labels", "pre_relu"],
        }


def test_recalibrated_statistics_are_averages_over_class_balanced_batches(digits, network):
    feed, before = Feed(digits, augment.shift, torch.device("cpu")), copy.deepcopy(network)
    views.recalibrate(network, feed)

    n = len(digits.train.labels)
    batches = class_balanced(digits.train.labels, 0, -(-n // 128) * 128, views.SEED).reshape(-1, 128)
    assert np.ptp(np.bincount(digits.train.labels[batches.ravel()])) <= 4
    shown = [images for images, _ in feed.epoch(list(batches), np.random.default_rng([views.SEED, 0, 7]))]
    with torch.no_grad():
        maps = [before.groups[0][0](images).double() for images in shown]
    mean = torch.stack([x.mean((0, 2, 3)) for x in maps]).mean(0)
    variance = torch.stack([x.var((0, 2, 3), unbiased=True) for x in maps]).mean(0)
    torch.testing.assert_close(norms(network)[0].running_mean.double(), mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norms(network)[0].running_var.double(), variance, rtol=1e-4, atol=1e-6)

    update_bn(shown, before)  # torch's own, which stochastic weight averaging ends with, for all layers
    for (name, found), expected in zip(network.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(found, expected), name


def test_recalibration_leaves_weights_momentum_and_evaluation_mode(digits, network):
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    old = norms(network)[-1].running_mean.clone()
    views.recalibrate(network, Feed(digits, augment.none, torch.device("cpu")))
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
    assert not torch.equal(norms(network)[-1].running_mean, old)
    assert {layer.momentum for layer in norms(network)} == {0.1}
    assert not any(module.training for module in network.modules())


def test_features_are_those_of_the_recalibrated_network(digits, network, written):
    plain, shifted = written()["test"].features, written(recalibrate=True, augment="none")["test"].features
    views.recalibrate(network, Feed(digits, augment.none, torch.device("cpu")))
    np.testing.assert_allclose(shifted, torch.cat(list(inference.feature_blocks(network, digits.test, digits, 100))), rtol=1e-4, atol=1e-5)
    assert not np.allclose(shifted, plain, rtol=0.1)


def test_a_network_without_batch_norm_stays_as_it_is():
    network = Network([torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU()], 3, 10)
    before = copy.deepcopy(network.state_dict())
    views.recalibrate(network, feed=None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_half_precision_is_the_rounded_single_one(digits, written):
    whole, half = (written(views=2, augment="shift", pre_relu=True, dtype=dtype) for dtype in ("float32", "float16"))
    for name, split in whole.items():
        assert np.array_equal(half[name].features, split.features.astype(np.float16).astype(np.float32))
        assert half[name].pre_relu.dtype == np.float16
        assert np.array_equal(half[name].pre_relu, split.pre_relu.astype(np.float16))
    assert half["train"].views.dtype == np.float16
    assert np.array_equal(half["train"].views, whole["train"].views.astype(np.float16))


def test_features_that_overflow_half_precision_are_refused(workspace, digits, network):
    last = network.groups[3][0].body[4]
    last.bias.data.fill_(1e5)
    message = "^params.yaml: extract.dtype: float16 ends at 65,504, and features of train images from 0 go beyond; set it to float32$"
    with pytest.raises(InputError, match=message):
        extract.write(extract.FILE, network, digits, Extract(dtype="float16"))
    assert list((workspace / "data/.tmp").iterdir()) == []
    assert not extract.FILE.exists()
    extract.write(extract.FILE, network, digits, Extract())
    last.bias.data.fill_(float("nan"))
    with pytest.raises(InputError, match="gives NaN or infinite features for train images from 0: stage one diverged"):
        extract.write(extract.FILE, network, digits, Extract(dtype="float16"))


def before_the_last_relu(family, network, x):
    """The maps (b, dim, h, w) there, by running the last block by hand."""
    x = network.maps(x, len(network.groups) - 1)
    *blocks, last = network.groups[-1]
    for block in blocks:
        x = block(x)
    if family == "cifar_resnet":
        return last.body(x) + last.shortcut(x)
    y = torch.relu(last.bn1(last.conv1(x)))
    y = last.bn2(last.conv2(y))
    if hasattr(last, "conv3"):
        y = last.bn3(last.conv3(torch.relu(y)))
    return y + x


@pytest.mark.parametrize(("family", "depth"), [("cifar_resnet", 14), ("resnet", 18), ("resnet", 50)])
def test_pre_relu_is_the_pooled_sum_of_the_last_block(family, depth):
    torch.manual_seed(0)
    network, x = used(backbone.build(family, {"depth": depth}, 3, 5)), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for layer in norms(network):
            layer.weight.mul_(0.3)  # else numbers grow from block to block
        with inference.before_last_relu(network) as latest:
            network.features(x.flip(0))  # an earlier pass, which does not count
            found = network.features(x)
        maps = before_the_last_relu(family, network, x)
        network.features(x)
    assert (maps < 0).float().mean() > 0.1
    (pooled,) = latest  # of the pass inside
    torch.testing.assert_close(pooled, maps.mean((2, 3)))
    torch.testing.assert_close(found, torch.relu(maps).mean((2, 3)))
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_pre_relu_is_written_for_every_split(digits, network, written):
    for name, split in written(pre_relu=True, batch=37).items():
        x = normalised(torch.from_numpy(np.array(getattr(digits, name).images)), digits)
        with torch.no_grad():
            expected = before_the_last_relu("cifar_resnet", network, x).mean((2, 3))
        np.testing.assert_allclose(split.tapped("pre_relu").features, expected, rtol=1e-4, atol=1e-5)


def test_a_backbone_without_relu_has_no_pre_relu():
    network = Network([torch.nn.Conv2d(1, 3, 3)], 3, 10)
    with pytest.raises(InputError, match="^params.yaml: extract.pre_relu: the backbone has no ReLU"), inference.before_last_relu(network):
        pass


def test_a_log_gets_a_line_of_each_pass_that_takes_long(written, digits, monkeypatch, capsys):
    written(views=1, augment="shift")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(extract, "LONG", 0)
    written(views=1, augment="shift")
    passes = {"train": digits.train, "train view 1/1": digits.train, "val": digits.val, "test": digits.test}
    said = [line.rpartition(" in ")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == [f"extract: {what}: {len(split.labels):,} images" for what, split in passes.items()]


def test_with_everything_on_two_runs_give_the_same_bytes_and_count_every_image(workspace, digits, network, capsys):
    backbone.save(network, "cifar_resnet", {"depth": 8, "width": 4}, 1)
    for old, new in (("views: 0", "views: 2"), ("recalibrate: false", "recalibrate: true"), ("pre_relu: false", "pre_relu: true")):
        edit("params.yaml", old, new)
    edit("params.yaml", "dtype: float32 ", "dtype: float16 ")
    contents = []
    for _ in range(2):
        extract.main()
        contents.append(extract.FILE.read_bytes())
    assert contents[0] == contents[1]
    count = 3 * len(digits.train.labels) + len(digits.val.labels) + len(digits.test.labels)
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"extract: {count:,} images in ")
    extract.write(extract.FILE, network, digits, extract.read_params(params.read()))
    assert extract.FILE.read_bytes() == contents[0]


def test_many_classes_give_the_same_bytes_at_another_time(workspace, digits):
    """A file of more than 2,000 has HDF5's newest format, in which groups may note when they were made, in seconds."""
    counts = np.pad(digits.class_counts, (0, 2490))
    data = dataclasses.replace(digits, class_counts=counts, names=[str(k) for k in range(2500)])
    network = backbone.build("cifar_resnet", {"depth": 8, "width": 4}, 1, 2500)
    contents = []
    for wait in (0, 1.1):
        time.sleep(wait)
        extract.write(extract.FILE, network, data, Extract(views=1, augment="shift"))
        contents.append(extract.FILE.read_bytes())
    assert contents[0] == contents[1]


def test_augmentations_are_those_of_stage_one(workspace):
    assert recipe.Train.model_fields["augment"].annotation == extract.Augmentation
    assert extract.read_params(params.read()).augment == "shift"
    edit("params.yaml", "  views: 0", "  augment: plain\n  views: 0")
    assert extract.read_params(params.read()).augment == "plain"


AUGMENT = "params.yaml: {}.augment: input should be 'none', 'shift', 'plain', 'large' or 'autoaugment', got 'flip'"
BAD = [
    ("  views: 0", "  views: -1", "params.yaml: extract.views: input should be greater than or equal to 0, got -1"),
    ("  views: 0", "  views: 2.5", "params.yaml: extract.views: input should be a valid integer"),
    ("  views: 0", "  view: 2", "params.yaml: extract.view: unknown key; known here: batch, views, augment, recalibrate, dtype, pre_relu"),
    ("  views: 0", "  views: 0\n  augment: flip", AUGMENT.format("extract")),
    ("augment: shift", "augment: flip", AUGMENT.format("train")),
    ("dtype: float32 ", "dtype: float64 ", "params.yaml: extract.dtype: input should be 'float32' or 'float16', got 'float64'"),
    ("recalibrate: false", "recalibrate: yes", "params.yaml: extract.recalibrate: input should be a valid boolean, got 'yes'"),
    (
        "  views: 0",
        "  views: 2\n  augment: none",
        "params.yaml: extract.views: without augmentation, all 2 would be the same; set it to 0, or set extract.augment",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_bad_options_are_one_line_in_the_stage_and_in_the_check(workspace, old, new, message):
    edit("params.yaml", old, new)
    for run in (extract.main, check.main):
        with pytest.raises(InputError) as caught:
            run()
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
    assert not (workspace / "data").exists()


def test_views_without_augmentation_are_refused_before_torch_is_imported(workspace, monkeypatch):
    edit("params.yaml", "augment: shift", "augment: none ")
    edit("params.yaml", "  views: 0", "  views: 2")
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    done = process("extract", check=False)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if not line.startswith("import time:")] == [BAD[-1][2]]
    assert not any(line.endswith(" torch") for line in done.stderr.splitlines())


def test_grey_pictures_have_no_autoaugment(digits):
    edit("params.yaml", "  views: 0", "  views: 1\n  augment: autoaugment")
    with pytest.raises(InputError, match="^params.yaml: extract.augment: 'autoaugment' is a policy for colour images, and these are grey"):
        extract.main()
    assert not extract.FILE.exists()
    edit("params.yaml", "  views: 1", "  views: 0")
    with pytest.raises(InputError, match="backbone.safetensors: not found"):  # augments nothing, so it does not matter
        extract.main()
