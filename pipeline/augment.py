"""Augmentation of a batch on tensors: uint8 images (b, h, w, channels) in, uint8 images (b, size, size, channels) out.

What is drawn comes from the generator alone, so a batch is a function of (seed, epoch, place in the epoch). A GPU gets many batches in
one call (pipeline/feed.py).
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.autoaugment import apply_policy
from pipeline.device import send
from pipeline.inference import centre


def none(images: torch.Tensor, size: int, generator: np.random.Generator) -> torch.Tensor:
    """The centre, as at evaluation."""
    return centre(images, size)


def shift(images: torch.Tensor, size: int, generator: np.random.Generator) -> torch.Tensor:
    """Move by at most one pixel each way; no flips, which would turn one digit into another."""
    return _crop(centre(images, size), 1, generator)


def plain(images: torch.Tensor, size: int, generator: np.random.Generator) -> torch.Tensor:
    """The recipe of the CIFAR papers (LDAM-DRW): random crop after padding by size / 8 black pixels, and a random flip."""
    return _flip(_crop(centre(images, size), size // 8, generator), generator)


def autoaugment(images: torch.Tensor, size: int, generator: np.random.Generator) -> torch.Tensor:
    """The recipe of Balanced Softmax (Ren et al. 2020), which GLAG follows: `plain`, AutoAugment's policy for CIFAR-10, Cutout.

    Cutout (DeVries and Taylor 2017) covers half the side, 16 pixels of 32, with black: the recipe cuts before it normalises.
    """
    return _cut_out(apply_policy(plain(images, size, generator), generator), size // 2, generator)


def large(images: torch.Tensor, size: int, generator: np.random.Generator) -> torch.Tensor:
    """The ImageNet recipe (Kang et al. 2020 without colour jitter): random area and aspect, resized to `size`, and a random flip.

    Area 8 to 100 %, aspect 3/4 to 4/3 (torchvision's RandomResizedCrop); a box that does not fit is cut to the image.
    """
    from torchvision.transforms.v2.functional import InterpolationMode, resized_crop  # seconds, which only this recipe should wait

    b, h, w, _ = images.shape
    area = h * w * generator.uniform(0.08, 1, b)
    aspect = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3), b))
    heights = np.minimum(np.sqrt(area / aspect).round(), h).astype(int)
    widths = np.minimum(np.sqrt(area * aspect).round(), w).astype(int)
    tops, lefts = generator.integers(0, h - heights + 1), generator.integers(0, w - widths + 1)
    planes = images.permute(0, 3, 1, 2)
    crops = [
        resized_crop(plane, top, left, height, width, [size, size], InterpolationMode.BILINEAR)
        for plane, top, left, height, width in zip(planes, tops, lefts, heights, widths, strict=True)
    ]
    return _flip(torch.stack(crops).permute(0, 2, 3, 1), generator)


def _crop(images: torch.Tensor, pad: int, generator: np.random.Generator) -> torch.Tensor:
    """Pad with black by `pad` pixels on each side and cut a random window of the old size out of every image."""
    b, h, w, _ = images.shape
    padded = torch.nn.functional.pad(images, (0, 0, pad, pad, pad, pad))
    top, left = send(generator.integers(0, 2 * pad + 1, (2, b, 1)), images.device)
    rows, columns = top + torch.arange(h, device=images.device), left + torch.arange(w, device=images.device)  # (b, h), (b, w)
    which = torch.arange(b, device=images.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]]


def _flip(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Mirror each image with probability one half."""
    mirrored = send(generator.random(len(images)) < 0.5, images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(2), images)


def _cut_out(images: torch.Tensor, side: int, generator: np.random.Generator) -> torch.Tensor:
    """Blacken a square of that side, centred anywhere in the image and clipped at its border."""
    b, h, w, _ = images.shape
    y, x = (send(generator.integers(0, length, (b, 1)), images.device) for length in (h, w))
    rows, columns = torch.arange(h, device=images.device), torch.arange(w, device=images.device)
    top, left = y - side // 2, x - side // 2
    in_rows, in_columns = (rows >= top) & (rows < top + side), (columns >= left) & (columns < left + side)  # (b, h), (b, w)
    return torch.where((in_rows[:, :, None] & in_columns[:, None, :])[..., None], 0, images)
