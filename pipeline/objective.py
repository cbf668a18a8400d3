"""What stage one minimises: loss, mixing and re-weighting put together over one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np

    from pipeline.network import Mix, Network

LossFunction = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


class Objective:
    """The loss of a batch of training images.

    Parameters
    ----------
    network, class_counts : what is trained, and on how many images of each class, (c,)
    loss, mixing, reweighting : parameters of the three methods
    bf16 : whether the network runs under bfloat16 autocast; classifier and losses are always float32
    compiled : whether torch.compile fuses the network's operations
    """

    def __init__(
        self, network: Network, class_counts: np.ndarray, loss: Any, mixing: Any, reweighting: Any, bf16: bool, compiled: bool = False
    ) -> None:
        self.device = next(network.parameters()).device
        counts = torch.as_tensor(class_counts, dtype=torch.float32, device=self.device)
        self.network, self.bf16 = network, bf16
        self.features = compile_for(self.device, network.features) if compiled else network.features
        self.loss_of, self.mix_of, self.weights_at = loss.build(counts), mixing.build(counts), reweighting.build(counts)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, progress: float, generator: np.random.Generator) -> torch.Tensor:
        """Loss, a scalar, of normalised images (b, channels, h, w) at a progress in [0, 1); the generator draws the mixing."""
        mix = self.mix_of(labels, generator)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.features(images, mix)
        logits = self.network.classifier(features.float())
        return batch_loss(logits, labels, mix, self.loss_of, self.weights_at(progress), progress)


def compile_for(place: torch.device, function: Callable) -> Callable:
    """The function with its operations fused, anew for each size of batch and place of mixing; on a GPU replayed as CUDA graphs."""
    import torch._dynamo  # half of what compiling costs, so only where it is asked for

    torch._dynamo.config.recompile_limit = 64  # by default the ninth form would run unfused, and which that is depends on the order
    return torch.compile(function, dynamic=False, mode="reduce-overhead" if place.type == "cuda" else "default")


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
