"""The frozen network over a split of images, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline import augment

if TYPE_CHECKING:
    from pipeline.images import Images, ImageSet
    from pipeline.network import Network


def statistics(data: ImageSet, place: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation for `augment.normalise`, each (channels,) float32."""
    return tuple(torch.as_tensor(x, dtype=torch.float32, device=place) for x in (data.mean, data.std))


def feature_blocks(network: Network, split: Images, data: ImageSet, batch: int, place: torch.device) -> Iterator[torch.Tensor]:
    """Pooled features (b, dim) of all images of a split, in order, `batch` at a time; evaluation mode, no augmentation."""
    network.eval()
    mean, std = statistics(data, place)
    for start in range(0, len(split.labels), batch):
        pixels = torch.from_numpy(np.array(split.images[start : start + batch])).to(place)
        with torch.inference_mode():
            yield network.features(augment.normalise(augment.centre(pixels, data.image_size), mean, std))


def accuracy(network: Network, split: Images, data: ImageSet, batch: int) -> float:
    """Share of a split's images that are classified right, a fraction."""
    blocks = feature_blocks(network, split, data, batch, next(network.parameters()).device)
    predicted = np.concatenate([network.classifier(block).argmax(1).cpu().numpy() for block in blocks])
    return float((predicted == split.labels).mean())


def bf16_pays(image_size: int, place: torch.device) -> bool:
    """Whether bfloat16 makes training faster there: it is multiplied in hardware, and images are large enough (32 pixels a side) for
    products to dominate a step.
    """
    if image_size < 32:
        return False
    if place.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = getattr(torch.cpu, "get_capabilities", dict)()  # not every torch tells
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
