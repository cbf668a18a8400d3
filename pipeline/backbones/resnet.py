"""torchvision's ResNet-18, 34 and 50 (He et al. 2016, section 4.1); weights start at random.

For images of about 224 pixels, or with `stem: cifar` for those of 32: a 3x3 convolution of stride 1 and no max-pool in the place of the 7x7
one and the pool. ResNet-34 with that stem, 21.3 M parameters, is the network of weight balancing (Alshammari et al. 2022) and of work that
builds on it; some of these papers print "ResNet-32" for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.params import Params

if TYPE_CHECKING:
    from torch import nn


class Backbone(Params):
    """depth : 18, 34 (features of 512) or 50 (features of 2048); stem : `imagenet` or `cifar`."""

    groups: ClassVar[list[str]] = ["stem", "layer 1", "layer 2", "layer 3", "layer 4"]

    depth: Literal[18, 34, 50]
    stem: Literal["imagenet", "cifar"] = "imagenet"

    def build(self, channels: int) -> tuple[list[nn.Module], int]:
        """Groups for images of that many channels, and the width of the feature they end in."""
        import torchvision
        from torch import nn

        net = getattr(torchvision.models, f"resnet{self.depth}")()
        first, pool = net.conv1, net.maxpool
        if self.stem == "cifar" or channels != 3:
            size, stride = (3, 1) if self.stem == "cifar" else (7, 2)
            first = nn.Conv2d(channels, 64, size, stride, padding=size // 2, bias=False)
            nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
        if self.stem == "cifar":
            pool = nn.Identity()
        stem = nn.Sequential(first, net.bn1, net.relu, pool)
        return [stem, net.layer1, net.layer2, net.layer3, net.layer4], net.fc.in_features
