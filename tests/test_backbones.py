"""Architectures against published figures and an independent implementation."""

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from pipeline import backbone
from pipeline.backbones import cifar_resnet, resnet
from pipeline.files import InputError, pack_metadata
from pipeline.network import Network, SubsampleAndPad


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


def test_resnet_34_with_a_cifar_stem_is_that_of_weight_balancing():
    """torchvision's with a 3x3 stem of stride 1 and no max-pool; 21.3 M parameters and 1.16 G multiplications at 32 pixels."""
    torch.manual_seed(0)
    network = backbone.build("resnet", {"depth": 34, "stem": "cifar"}, 3, 100).eval()
    reference = torchvision.models.resnet34(num_classes=100).eval()
    reference.conv1, reference.maxpool = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False), torch.nn.Identity()
    named = {f"groups.{i}": part for i, part in enumerate(["conv1", "layer1", "layer2", "layer3", "layer4"])}
    weights = {}
    for name, tensor in network.state_dict().items():
        for ours, theirs in {"groups.0.0": "conv1", "groups.0.1": "bn1", **named, "classifier": "fc"}.items():
            if name.startswith(f"{ours}."):
                weights[theirs + name.removeprefix(ours)] = tensor
                break
    reference.load_state_dict(weights)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(x), reference(x))
    assert parameters(network) / 1e6 == pytest.approx(21.3, abs=0.05)
    with FlopCounterMode(display=False) as counter:
        network(x[:1])
    assert counter.get_total_flops() / 2e9 == pytest.approx(1.16, abs=0.01)


def test_cifar_resnet_32_of_width_64_is_sixteen_times_the_work():
    """7.4 M parameters and 1.10 G multiplications, against 0.47 M and 69 M at width 16."""
    for width, millions, multiplications in ((16, 0.47, 69e6), (64, 7.4, 1.10e9)):
        network = backbone.build("cifar_resnet", {"depth": 32, "width": width}, 3, 100).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.randn(1, 3, 32, 32))
        assert parameters(network) / 1e6 == pytest.approx(millions, rel=0.02)
        assert counter.get_total_flops() / 2 == pytest.approx(multiplications, rel=0.02)


def test_a_cosine_classifier_is_scale_times_cosine():
    network = Network([torch.nn.Identity()], 5, 3, cosine_scale=30.0)
    torch.testing.assert_close(network.classifier.weight.norm(dim=1), torch.ones(3))
    with torch.no_grad():
        network.classifier.weight *= torch.tensor([[0.1], [2.0], [7.0]])
    features = torch.randn(4, 5)
    expected = 30 * torch.nn.functional.cosine_similarity(features[:, None], network.classifier.weight[None], dim=2)
    torch.testing.assert_close(network.classifier(features), expected)


def test_a_network_with_a_cosine_classifier_comes_back(workspace):
    network = backbone.build("cifar_resnet", {"depth": 8, "width": 4}, 1, 3, 12.5).eval()
    backbone.save(network, "cifar_resnet", {"depth": 8, "width": 4}, 1)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(backbone.load(1, 3).eval()(x), network(x), rtol=0, atol=0)


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
    save_file({"w": torch.zeros(1)}, backbone.FILE, pack_metadata({"schema": backbone.SCHEMA}))
    with pytest.raises(InputError, match="does not fit its architecture: 'channels'"):
        backbone.load(1, 3)


def test_weights_start_as_he_et_al_have_them():
    """Normal, of variance 2 / inputs (He et al. 2015), the classifier's too (LDAM's code)."""
    torch.manual_seed(0)
    network = backbone.build("cifar_resnet", {"depth": 8, "width": 32}, 3, 100)
    for layer in (module for module in network.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)):
        assert layer.weight.std().item() == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.06)
