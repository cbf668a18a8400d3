"""How images enter the network outside of training: centre, normalisation, evaluation mode, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.device import send
from pipeline.files import InputError

if TYPE_CHECKING:
    from pipeline.images import Images, ImageSet
    from pipeline.network import Network


def statistics(data: ImageSet, place: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation for `normalise`, each (channels,) float32."""
    return tuple(torch.as_tensor(x, dtype=torch.float32, device=place) for x in (data.mean, data.std))


def centre(images: torch.Tensor, size: int) -> torch.Tensor:
    """The central square of `size` pixels of images (b, h, w, channels)."""
    top, left = (images.shape[1] - size) // 2, (images.shape[2] - size) // 2
    return images[:, top : top + size, left : left + size]


def normalise(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """uint8 (b, h, w, channels) to normalised float32 (b, channels, h, w) in channels-last memory; mean, std (channels,)."""
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def loader(data: ImageSet, place: torch.device) -> Callable[[Images, np.ndarray | slice], torch.Tensor]:
    """A function of a split and rows of it that gives these images as the network takes them, without augmentation:
    (b, channels, size, size) float32.
    """
    mean, std = statistics(data, place)

    def load(split: Images, rows: np.ndarray | slice) -> torch.Tensor:
        pixels = send(np.array(split.images[rows]), place)
        return normalise(centre(pixels, data.image_size), mean, std)

    return load


def feature_blocks(network: Network, split: Images, data: ImageSet, batch: int, bf16: bool = False) -> Iterator[torch.Tensor]:
    """Pooled features (b, dim) float32 of all images of a split, in order, `batch` at a time; evaluation mode, no augmentation.

    bf16 : run under bfloat16 autocast
    """
    network.eval()
    place = next(network.parameters()).device
    load = loader(data, place)
    for start in range(0, len(split.labels), batch):
        images = load(split, slice(start, start + batch))
        with torch.inference_mode(), torch.autocast(place.type, torch.bfloat16, enabled=bf16):
            features = network.features(images)
        yield features.float()


@contextmanager
def before_last_relu(network: Network) -> Iterator[list[torch.Tensor]]:
    """Give a list that holds, after each forward pass while it is open, one tensor: the pooled features (b, dim) float32 before the
    backbone's last ReLU ("noRelu" in Kang et al. 2020, table 12).

    The last ReLU is the last such module in the groups. torchvision's blocks call theirs several times, so of a pass the last call counts.
    It works in place, so its input is pooled before it runs.

    Raises
    ------
    InputError
        If the backbone has no ReLU.
    """
    relus = [module for module in network.groups.modules() if isinstance(module, torch.nn.ReLU)]
    if not relus:
        raise InputError("params.yaml: extract.pre_relu: the backbone has no ReLU; set it to false")
    latest: list[torch.Tensor] = []

    def pool(relu: torch.nn.Module, maps: tuple[torch.Tensor]) -> None:
        latest[:] = [maps[0].mean((2, 3)).float()]

    hook = relus[-1].register_forward_pre_hook(pool)
    try:
        yield latest
    finally:
        hook.remove()


def accuracy(network: Network, split: Images, data: ImageSet, batch: int, bf16: bool = False) -> float:
    """Share of a split's images that are classified right, a fraction."""
    blocks = feature_blocks(network, split, data, batch, bf16)
    with torch.inference_mode():
        predicted = torch.cat([network.classifier(block).argmax(1) for block in blocks]).cpu().numpy()
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
