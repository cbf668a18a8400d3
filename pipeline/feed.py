"""Training images as a step takes them: chosen, augmented, normalised, where the network is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.device import send
from pipeline.inference import normalise, statistics

if TYPE_CHECKING:
    from pipeline.images import ImageSet

GPU_CALL = 256 << 20  # bytes of uint8 images that a GPU augments in one call: all of CIFAR-100-LT is 33 MB
GPU_SHARE = 0.25  # of the GPU's free memory that the data set may take


class Feed:
    """An epoch's batches.

    On a CPU each batch is gathered and augmented when its turn comes, so that it is still in the cache when the network takes it. On a
    GPU, whose steps wait for launches rather than for arithmetic, the data set lies in its memory as uint8 (where it fits) and many
    batches, on CIFAR the whole epoch, are augmented and normalised in one call.

    Parameters
    ----------
    data : the images
    augmentation : a function of pipeline/augment.py
    place : where the network is
    together : images prepared in one call, rounded down to whole batches; None chooses by the place
    """

    def __init__(self, data: ImageSet, augmentation: Callable, place: torch.device, together: int | None = None) -> None:
        self.data, self.augmentation, self.place = data, augmentation, place
        self.mean, self.std = statistics(data, place)
        self.labels = send(data.train.labels, place)
        on_gpu = place.type == "cuda"
        self.pixels = self._resident() if on_gpu else None
        self.together = together or (GPU_CALL // math.prod(data.train.images.shape[1:]) if on_gpu else 1)

    def _resident(self) -> torch.Tensor | None:
        """All training images in the GPU's memory; None where they stay in files or are too many."""
        images = self.data.train.images
        free, _ = torch.cuda.mem_get_info(self.place)
        if not isinstance(images, np.ndarray) or images.nbytes > GPU_SHARE * free:
            return None
        return torch.from_numpy(np.array(images)).to(self.place)

    def epoch(self, batches: list[np.ndarray], generator: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images (b, channels, size, size) float32 and labels (b,) of each batch of rows; augmentation draws from the generator."""
        each = max(1, self.together // len(batches[0]))
        for start in range(0, len(batches), each):
            some = batches[start : start + each]
            rows, sizes = np.concatenate(some), [len(batch) for batch in some]
            there = send(rows, self.place)
            pixels = send(self.data.train.images[rows], self.place) if self.pixels is None else self.pixels[there]
            images = normalise(self.augmentation(pixels, self.data.image_size, generator), self.mean, self.std)
            yield from zip(images.split(sizes), self.labels[there].split(sizes), strict=True)
