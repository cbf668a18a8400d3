"""Stored networks and the raw images they are trained and judged on, in plain torch, and README's tables of them."""

import functools
import os
import re
from pathlib import Path

import numpy as np
import torch

from pipeline import backbone, cells, longtail, params
from tests.conftest import ROOT

EVERY = bool(os.environ.get("TAILCACHE_EVERY_BACKBONE"))


@functools.cache
def data_set(name):
    """Raw images, which many cells share."""
    return params.method("datasets", name, "data.name").Dataset().read(Path(os.environ["TAILCACHE_CIFAR"]), 0)


def images_of(cell):
    """The raw images of a cell's data set, and places of its training images there."""
    data = cells.compose(cell, 0, os.environ["TAILCACHE_CIFAR"], cells.read())["data"]
    raw = data_set(data["name"])
    counts = longtail.class_counts(data["imbalance"], np.bincount(raw.train.labels).max(), data["ratio"], len(raw.names))
    return raw, longtail.cut(raw.train.labels, counts, 0)[0]


def network_of(file, raw):
    """A network for these images, for evaluation."""
    return backbone.load(len(raw.mean), len(raw.names), file).eval().to(memory_format=torch.channels_last)


def pixels(raw, split, rows):
    """Normalised images (b, channels, h, w), without augmentation."""
    return ((torch.tensor(split.read(rows)).float() / 255 - torch.tensor(raw.mean)) / torch.tensor(raw.std)).permute(0, 3, 1, 2)


def features_of(network, raw, split, rows):
    """Features (n, d) of some images of a split."""
    with torch.no_grad():
        return torch.cat([network.features(pixels(raw, split, some)) for some in np.array_split(rows, -(-len(rows) // 250))])


def said_of_networks(columns):
    """The rows of README's table of networks that has so many columns of numbers: cells, and their numbers as texts."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(rf"^ *\| `(cifar\d+-\w+-100/[^`]+)` \| ((?:[\d.]+ \| ){{{columns - 1}}}[\d.]+) \|$", readme, re.MULTILINE)
    return [(cell, numbers.split(" | ")) for cell, numbers in rows]


def computed(rows):
    """Those of which numbers are computed anew, 40 s each."""
    return rows if EVERY else [row for row in rows if row[0].endswith("plain/mfw")]
