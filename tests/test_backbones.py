"""Architectures against published figures and an independent implementation."""

import pytest
import torch
import torchvision

from pipeline import backbone
from pipeline.backbones import cifar_resnet, resnet
from pipeline.files import InputError
from pipeline.network import SubsampleAndPad


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_resnets_have_the_published_size(depth, millions):
    """He et al. 2016, table 6."""
    assert parameters(backbone.build("cifar_resnet", {"depth": depth}, 3, 10)) / 1e6 == pytest.approx(millions, abs=0.03)


def test_resnet_32_has_464_154_parameters():
    assert parameters(backbone.build("cifar_resnet", {"depth": 32, "width": 16}, 3, 10)) == 464_154


def test_groups_and_features_of_a_cifar_resnet():
    network = backbone.build("cifar_resnet", {"depth": 14, "width": 5}, 1, 7).eval()
    x = torch.randn(2, 1, 32, 32)
    shapes = []
    for group in network.groups:
        x = group(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(5, 32, 32), (5, 32, 32), (10, 16, 16), (20, 8, 8)]
    assert len(cifar_resnet.Backbone.groups) == len(network.groups)
    features = network.features(torch.randn(2, 1, 32, 32))
    assert features.shape == (2, 20)
    assert (features >= 0).all()  # pooled after the last ReLU


def test_shortcut_a_subsamples_and_pads_with_zeros():
    x = torch.randn(2, 3, 6, 6)
    y = SubsampleAndPad(3, 6)(x)
    assert y.shape == (2, 6, 3, 3)
    torch.testing.assert_close(y[:, 1:4], x[:, :, ::2, ::2])
    assert y[:, [0, 4, 5]].abs().sum() == 0


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_is_torchvisions(depth):
    torch.manual_seed(0)
    network = backbone.build("resnet", {"depth": depth}, 3, 5).eval()
    torch.manual_seed(0)
    reference = getattr(torchvision.models, f"resnet{depth}")().eval()
    reference.fc = torch.nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(network.features(x), reference(x))
    assert len(resnet.Backbone.groups) == len(network.groups)


def test_resnet_takes_grey_images():
    assert backbone.build("resnet", {"depth": 18}, 1, 5).features(torch.randn(2, 1, 64, 64)).shape == (2, 512)


def test_a_saved_network_comes_back(workspace):
    network = backbone.build("cifar_resnet", {"depth": 8, "width": 4}, 1, 3).eval()
    backbone.save(network, "cifar_resnet", {"depth": 8, "width": 4}, 1)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(backbone.load(1, 3).eval()(x), network(x), rtol=0, atol=0)


def test_equal_networks_are_equal_bytes(workspace):
    for name in ("a", "b"):
        torch.manual_seed(0)
        network = backbone.build("cifar_resnet", {"depth": 8, "width": 4}, 1, 3)
        backbone.save(network, "cifar_resnet", {"depth": 8, "width": 4}, 1, workspace / name)
    assert (workspace / "a").read_bytes() == (workspace / "b").read_bytes()


def test_a_damaged_backbone_is_one_line(workspace):
    with pytest.raises(InputError, match="backbone.safetensors: not found"):
        backbone.load(1, 3)
    network = backbone.build("cifar_resnet", {"depth": 8, "width": 4}, 1, 3)
    backbone.save(network, "cifar_resnet", {"depth": 8, "width": 4}, 1)
    whole = backbone.FILE.read_bytes()
    for size in (0, 5, 200, len(whole) - 1):
        backbone.FILE.write_bytes(whole[:size])
        with pytest.raises(InputError, match="not a complete backbone"):
            backbone.load(1, 3)
    backbone.save(network, "cifar_resnet", {"depth": 14, "width": 4}, 1)
    with pytest.raises(InputError, match="does not fit its architecture"):
        backbone.load(1, 3)
