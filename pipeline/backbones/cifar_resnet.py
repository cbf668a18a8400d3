"""The ResNets for CIFAR (He et al. 2016, section 4.2): ResNet-20, 32, 44, 56, 110 at depth 6n + 2.

A 3x3 stem and three stages of n basic blocks with 1, 2 and 4 times `width` channels, option-A shortcuts, Kaiming-normal weights. Width 16
is the "ResNet-32" of LDAM, MFW and GLAG (464,154 parameters with 10 classes, features of 64); papers that report far higher numbers
under the same name use width 64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from pipeline.params import Params

if TYPE_CHECKING:
    from torch import nn


class Backbone(Params):
    """depth : 8, 14, 20, 26, 32, …; width : channels of the stem; features have 4 x width."""

    groups: ClassVar[list[str]] = ["stem", "stage 1", "stage 2", "stage 3"]

    depth: int = Field(ge=8)
    width: int = Field(16, ge=1)

    @field_validator("depth")
    @classmethod
    def _six_n_plus_two(cls, depth: int) -> int:
        if depth % 6 != 2:
            raise ValueError("depth should be 6n + 2: 8, 14, 20, 26, 32, …")
        return depth

    def build(self, channels: int) -> tuple[list[nn.Module], int]:
        """Groups for images of that many channels, and the width of the feature they end in."""
        from torch import nn

        from pipeline.network import Residual, SubsampleAndPad

        def conv(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            nn.init.kaiming_normal_(layer.weight)
            return [layer, nn.BatchNorm2d(outputs)]

        def block(inputs: int, outputs: int, stride: int) -> nn.Module:
            body = nn.Sequential(*conv(inputs, outputs, stride), nn.ReLU(inplace=True), *conv(outputs, outputs, 1))
            return Residual(body, nn.Identity() if stride == 1 else SubsampleAndPad(inputs, outputs))

        def stage(inputs: int, outputs: int, stride: int) -> nn.Module:
            more = [block(outputs, outputs, 1) for _ in range((self.depth - 2) // 6 - 1)]
            return nn.Sequential(block(inputs, outputs, stride), *more)

        w = self.width
        stem = nn.Sequential(*conv(channels, w, 1), nn.ReLU(inplace=True))
        return [stem, stage(w, w, 1), stage(w, 2 * w, 2), stage(2 * w, 4 * w, 2)], 4 * w
