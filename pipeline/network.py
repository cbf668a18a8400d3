"""The network of stage one: an ordered sequence of groups, a global average pool and a classifier, linear or (for LDAM) a cosine.

"After the second group" is an index into the sequence, so every method that mixes features hooks in at one place (`Mix.after`).
Features are the pooled outputs of the last group, after its ReLU, as in the reference code of Kang et al. and LDAM-DRW.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn


class Mix(NamedTuple):
    """What a mixing method drew for one batch.

    after : number of groups that the batch passes before it is mixed (0 = the images themselves)
    partner : (b,) int64, the sample that each one is mixed with
    weight : (b,) in [0, 1], share of the partner in the mixed feature
    label_weight : (b,) in [0, 1], share of the partner's label in the loss; None where the label stays as it is
    """

    after: int
    partner: torch.Tensor
    weight: torch.Tensor
    label_weight: torch.Tensor | None


class Network(nn.Module):
    """Groups, global average pool, classifier.

    Parameters
    ----------
    groups : modules applied in order; images (b, channels, h, w) become maps (b, dim, h', w')
    dim : width of the pooled feature
    classes : number of classes c
    cosine_scale : what a cosine classifier multiplies its cosines by; None for a linear one
    """

    def __init__(self, groups: Sequence[nn.Module], dim: int, classes: int, cosine_scale: float | None = None) -> None:
        super().__init__()
        self.groups = nn.ModuleList(groups)
        self.cosine_scale = cosine_scale
        if cosine_scale is None:
            self.classifier = nn.Linear(dim, classes)
            nn.init.kaiming_normal_(self.classifier.weight)  # as LDAM-DRW's ResNet-32
        else:
            self.classifier = Cosine(dim, classes, cosine_scale)

    def maps(self, images: torch.Tensor, after: int) -> torch.Tensor:
        """What images (b, channels, h, w) are behind the first `after` groups; the images themselves behind none."""
        for group in self.groups[:after]:
            images = group(images)
        return images

    def rest(self, maps: torch.Tensor, after: int) -> torch.Tensor:
        """Pooled features (b, dim) of the maps behind the first `after` groups."""
        for group in self.groups[after:]:
            maps = group(maps)
        return maps.mean((2, 3))

    def features(self, images: torch.Tensor, mix: Mix | None = None) -> torch.Tensor:
        """Pooled features (b, dim) of images (b, channels, h, w)."""
        if mix is None:
            return self.rest(images, 0)
        return self.rest(_mixed(self.maps(images, mix.after), mix), mix.after)

    def forward(self, x: torch.Tensor, mix: Mix | None = None) -> torch.Tensor:
        """Logits (b, c)."""
        return self.classifier(self.features(x, mix))


class Cosine(nn.Module):
    """scale x cos(feature, weight of the class), without a bias: the normalised classifier of LDAM's code."""

    def __init__(self, dim: int, classes: int, scale: float) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scale = dim, classes, scale
        self.weight = nn.Parameter(nn.functional.normalize(torch.empty(classes, dim).uniform_(-1, 1)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (b, c) of features (b, dim)."""
        return self.scale * nn.functional.linear(nn.functional.normalize(features), nn.functional.normalize(self.weight))


def _mixed(x: torch.Tensor, mix: Mix) -> torch.Tensor:
    """(1 - w) x + w x[partner]; the gradient reaches the partner too, which MFW's analysis (Eq. 9) asks for."""
    weight = mix.weight.to(x.dtype)[:, None, None, None]
    return x + weight * (x[mix.partner] - x)


class Residual(nn.Module):
    """ReLU(body(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.relu = nn.ReLU(inplace=True)  # a module, so that a hook can see the sum before it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.body(x).add_(self.shortcut(x)))  # in place: the backward pass does not need the sum before the ReLU


class SubsampleAndPad(nn.Module):
    """Shortcut "option A" (He et al. 2016, section 3.3): every second pixel, new channels zero. It has no parameters."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        before = (out_channels - channels) // 2
        self.pad = (0, 0, 0, 0, before, out_channels - channels - before)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(x[:, :, ::2, ::2], self.pad)
