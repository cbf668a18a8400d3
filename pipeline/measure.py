"""How far training has come, class by class: the quantities of figures 1, 3 and 4 of MFW (Ye et al. 2021).

After an epoch, in evaluation mode, without augmentation or mixing, over training images:
- accuracy: share of a class's images that are classified right (figures 1a and 3)
- classification ratio: images classified into a class, whatever they are, divided by the images of that class (figure 1b)
- gradient norm: |∇ loss| with respect to g(x), the maps behind the group where MFW mixes, the mean over a class's images (figure 4). They
  are taken at the same place whatever the mixing, so that runs compare: `train.watch.after`, by default the paper's second group.

They are measured on a fixed sample, so that they cost little beside the epoch itself: all images of small classes and the same number
of each larger one. An image of a class of which one in k is watched counts k times, so nothing is biased towards small classes; the
figures of small classes are exact. With as many images to watch as the training set has, all are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from pipeline.device import send
from pipeline.inference import loader
from pipeline.sampling import by_class

if TYPE_CHECKING:
    from pipeline.images import ImageSet
    from pipeline.network import Network


class Progress(NamedTuple):
    """One measurement; accuracies and ratio are fractions."""

    total: float  # accuracy over all training images
    accuracy: np.ndarray  # (c,)
    ratio: np.ndarray  # (c,)
    gradient_norm: np.ndarray  # (c,), zeros where gradients were not asked for


def watched(labels: np.ndarray, images: int, seed: int) -> np.ndarray:
    """Sorted indices of about `images` training images: the same number of each class, all of a smaller one, at least one of any."""
    counts = np.bincount(labels)
    cap = max(bisect_right(range(1, counts.max() + 1), images, key=lambda each: np.minimum(counts, each).sum()), 1)
    generator = np.random.default_rng([seed, 0, 2])
    return np.sort(np.concatenate([generator.permutation(members)[:cap] for members in by_class(labels)]))


def measure(
    network: Network,
    data: ImageSet,
    rows: np.ndarray,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    batch: int,
    bf16: bool,
    after: int | None,
) -> Progress:
    """Measure on the training images `rows` (m,), of which every class has some.

    loss_of : logits (b, c) and labels (b,) to losses (b,): the loss in use, without re-weighting
    after : number of groups behind which gradients are taken; None leaves them out, which halves the cost
    """
    network.eval()
    place, labels, split = next(network.parameters()).device, data.train.labels[rows], after or 0
    load, autocast = loader(data, place), torch.autocast(place.type, torch.bfloat16, enabled=bf16)
    predicted, norms = [], []
    for start in range(0, len(rows), batch):
        some = slice(start, start + batch)
        with torch.no_grad(), autocast:
            maps = network.maps(load(data.train, rows[some]), split)
        with torch.set_grad_enabled(after is not None):
            maps.requires_grad_(after is not None)
            with autocast:
                features = network.rest(maps, split)
            logits = network.classifier(features.float())
        predicted.append(logits.detach().argmax(1))
        if after is not None:
            losses = loss_of(logits, send(labels[some], place))
            (gradient,) = torch.autograd.grad(losses.sum(), maps)
            norms.append(gradient.float().flatten(1).norm(dim=1))
    found = torch.cat(norms).cpu().numpy() if norms else np.zeros(len(rows))
    return summary(labels, torch.cat(predicted).cpu().numpy(), found, data.class_counts)


def summary(labels: np.ndarray, predicted: np.ndarray, norms: np.ndarray, class_counts: np.ndarray) -> Progress:
    """The measurement from labels, predictions and gradient norms (m,) of watched images, and all classes' sizes (c,)."""
    classes = len(class_counts)
    seen = np.bincount(labels, minlength=classes)
    accuracy = np.bincount(labels, predicted == labels, classes) / seen
    into = np.bincount(predicted, (class_counts / seen)[labels], classes)  # training images classified into each class
    total = (accuracy * class_counts).sum() / class_counts.sum()
    return Progress(float(total), accuracy, into / class_counts, np.bincount(labels, norms, classes) / seen)
