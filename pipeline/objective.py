"""What stage one minimises: loss, mixing and re-weighting put together over one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from pipeline.inference import normalise, statistics

if TYPE_CHECKING:
    import numpy as np

    from pipeline.images import ImageSet
    from pipeline.network import Mix, Network

LossFunction = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


class Objective:
    """The loss of a batch of training images.

    Parameters
    ----------
    network, data : what is trained, and on what
    loss, mixing, reweighting : parameters of the three methods
    augmentation : a function of pipeline/augment.py
    bf16 : whether the network runs under bfloat16 autocast; classifier and losses are always float32
    """

    def __init__(
        self, network: Network, data: ImageSet, loss: Any, mixing: Any, reweighting: Any, augmentation: Callable, bf16: bool
    ) -> None:
        self.device = next(network.parameters()).device
        counts = torch.as_tensor(data.class_counts, dtype=torch.float32, device=self.device)
        self.network, self.data, self.augmentation, self.bf16 = network, data, augmentation, bf16
        self.loss_of, self.mix_of, self.weights_at = loss.build(counts), mixing.build(counts), reweighting.build(counts)
        self.mean, self.std = statistics(data, self.device)

    def __call__(self, rows: np.ndarray, progress: float, generator: np.random.Generator) -> torch.Tensor:
        """Loss, a scalar, of the training images `rows` (b,) at a progress in [0, 1); the generator draws augmentation and mixing."""
        pixels = torch.from_numpy(self.data.train.images[rows]).to(self.device)
        labels = torch.from_numpy(self.data.train.labels[rows]).to(self.device)
        images = normalise(self.augmentation(pixels, self.data.image_size, generator), self.mean, self.std)
        mix = self.mix_of(labels, generator)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.network.features(images, mix)
        logits = self.network.classifier(features.float())
        return batch_loss(logits, labels, mix, self.loss_of, self.weights_at(progress), progress)


def batch_loss(
    logits: torch.Tensor, labels: torch.Tensor, mix: Mix | None, loss_of: LossFunction, weights: torch.Tensor, progress: float
) -> torch.Tensor:
    """The weighted mean Σ w_y L_y / Σ w_y over the batch, as LDAM-DRW's code has it (torch's `weight=`).

    Where a mixing also mixes labels, every sample counts for its own label with 1 - μ and for its partner's with μ.

    Parameters
    ----------
    logits : (b, c)
    labels : (b,)
    weights : (c,) weight of each class
    """
    weight = weights[labels]
    loss = weight * loss_of(logits, labels, progress)
    if mix is not None and mix.label_weight is not None:
        partners, share = labels[mix.partner], mix.label_weight
        loss = (1 - share) * loss + share * weights[partners] * loss_of(logits, partners, progress)
        weight = (1 - share) * weight + share * weights[partners]
    return loss.sum() / weight.sum()
