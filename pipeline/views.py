"""What `extract` does with augmented training images: features of them (views), and BatchNorm re-estimated on them.

The stage has no seed. What is drawn is a function of the view and the place in it, whatever the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import progress
from pipeline.sampling import class_balanced

if TYPE_CHECKING:
    from pipeline.feed import Feed
    from pipeline.network import Network

SEED = 0  # of all that is drawn here
TOGETHER = 256  # images augmented in one call; not the batch, so that another batch gives the same views
BALANCED = 128  # images in a batch that BatchNorm is re-estimated on: few enough to be quick, enough for a variance


def view_blocks(network: Network, feed: Feed, view: int, batch: int) -> Iterator[torch.Tensor]:
    """Pooled features (b, dim) float32 of all training images, in order, at most `batch` at a time; evaluation mode.

    The images are augmented as the feed does; `view` counts from 0, and each has an augmentation of its own.
    """
    network.eval()
    rows = np.arange(len(feed.data.train.labels))
    parts = np.split(rows, range(TOGETHER, len(rows), TOGETHER))
    for images, _ in feed.epoch(parts, np.random.default_rng([SEED, view, 6])):
        for some in images.split(batch):
            with torch.inference_mode():
                features = network.features(some)
            yield features.float()


def recalibrate(network: Network, feed: Feed) -> None:
    """Replace BatchNorm's running statistics by those of class-balanced batches; weights stay, and the network ends in evaluation mode.

    They become plain averages of the batches' means and (unbiased) variances over an epoch of augmented training images, drawn class by
    class and rounded up to whole batches, which all count the same. Why: where the reference code of Kang et al. 2020 retrains a classifier
    (cRT, LWS), the backbone's weights are frozen but its BatchNorm is in training mode, so its statistics drift to those of class-balanced
    batches (MiSLAS, issue 2; for τ-norm and nearest means they do not). Cached features have the statistics of stage one; this brings that
    shift back, for all heads. A network without BatchNorm stays as it is.
    """
    network.eval()
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    if not layers:
        return
    steps = -(-len(feed.data.train.labels) // BALANCED)
    rows = class_balanced(feed.data.train.labels, 0, steps * BALANCED, SEED).reshape(steps, BALANCED)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain average over all batches
        layer.train()  # and nothing else: dropout would draw
    with torch.no_grad():
        batches = feed.epoch(list(rows), np.random.default_rng([SEED, 0, 7]))
        for images, _ in progress.bar(batches, "extract recalibrate", "batch", steps):
            network.features(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()
