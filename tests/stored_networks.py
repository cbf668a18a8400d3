"""Stored networks and the raw images they are judged on, in plain torch."""

import functools
import os
from pathlib import Path

import torch

from pipeline import backbone, params


@functools.cache
def data_set(name):
    """Raw images, which many cells share."""
    return params.method("datasets", name, "data.name").Dataset().read(Path(os.environ["TAILCACHE_CIFAR"]), 0)


def network_of(file, raw):
    """A network for these images, for evaluation."""
    return backbone.load(len(raw.mean), len(raw.names), file).eval().to(memory_format=torch.channels_last)


def pixels(raw, split, rows):
    """Normalised images (b, channels, h, w), without augmentation."""
    return ((torch.tensor(split.read(rows)).float() / 255 - torch.tensor(raw.mean)) / torch.tensor(raw.std)).permute(0, 3, 1, 2)
