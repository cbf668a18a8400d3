"""torchvision's ResNet-18, 34 and 50 (He et al. 2016, section 4.1), for images of about 224 pixels; weights start at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.params import Params

if TYPE_CHECKING:
    from torch import nn


class Backbone(Params):
    """depth : 18, 34 (features of 512) or 50 (features of 2048)."""

    groups: ClassVar[list[str]] = ["stem", "layer 1", "layer 2", "layer 3", "layer 4"]

    depth: Literal[18, 34, 50]

    def build(self, channels: int) -> tuple[list[nn.Module], int]:
        """Groups for images of that many channels, and the width of the feature they end in."""
        import torchvision
        from torch import nn

        net = getattr(torchvision.models, f"resnet{self.depth}")()
        if channels != 3:
            net.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        return [stem, net.layer1, net.layer2, net.layer3, net.layer4], net.fc.in_features
