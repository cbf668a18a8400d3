"""Training: epochs of SGD on the objective, and what each of them gives.

Order, augmentation and mixing of an epoch are functions of (seed, epoch). The progress that losses and re-weightings see is that of whole
epochs: epoch / epochs, in [0, 1).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from pipeline import augment, backbone, inference
from pipeline.device import device
from pipeline.files import InputError
from pipeline.measure import Progress, measure, watched
from pipeline.objective import Objective
from pipeline.sampling import epoch_order

if TYPE_CHECKING:
    from pipeline.images import ImageSet
    from pipeline.network import Network
    from pipeline.recipe import Recipe, Train


class Trained(NamedTuple):
    """What training gives.

    network : on the CPU, in evaluation mode
    curve : one row an epoch: epoch (from 1), loss (mean over the batches' images, augmented and mixed, nats), lr (at its last step), alpha
        (of GraLoss; None for other losses), train_accuracy and val_accuracy (percent, in evaluation mode and without augmentation or
        mixing; of the watched training images, weighted by class, and of all validation images, None without any)
    classes : one row a class every so many epochs (`train.watch.every`) and after the last: epoch, class, train_images, accuracy (percent),
        classification_ratio, gradient_norm; see pipeline/measure.py
    """

    network: Network
    curve: list[dict[str, Any]]
    classes: list[dict[str, Any]]


def fit(recipe: Recipe, data: ImageSet, seed: int) -> Trained:
    """Train from random weights."""
    train, place = recipe.train, device()
    network = new_network(recipe, data, seed)
    bf16 = train.precision == "bf16" or (train.precision == "auto" and inference.bf16_pays(data.image_size, place))
    augmentation = getattr(augment, train.augment)
    objective = Objective(network, data, recipe.loss, recipe.mixing, recipe.reweighting, augmentation, bf16)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9, weight_decay=train.weight_decay)

    order, rows = epoch_order(train.sampler, data.train.labels, train.epochs, seed), watched(data.train.labels, train.watch.images, seed)
    curve, classes = [], []
    with tqdm(total=train.epochs * len(data.train.labels), unit="img", unit_scale=True, disable=None, leave=False) as bar:
        for epoch in range(train.epochs):
            row = run_epoch(epoch, batches(order(epoch), train.batch), train, objective, optimiser, seed, bar)
            progress = epoch / train.epochs
            for_classes = (epoch + 1) % train.watch.every == 0 or epoch + 1 == train.epochs
            after = train.watch.after if for_classes else None
            found = measure(network, data, rows, lambda z, y, at=progress: objective.loss_of(z, y, at), train.batch, bf16, after)
            row["alpha"] = recipe.loss.alpha(progress) if callable(getattr(recipe.loss, "alpha", None)) else None
            row["train_accuracy"] = 100 * found.total
            row["val_accuracy"] = None if data.val is None else 100 * inference.accuracy(network, data.val, data, train.batch, bf16)
            curve.append(row)
            if for_classes:
                classes += class_rows(epoch + 1, found, data.class_counts)
    return Trained(network.eval().cpu(), curve, classes)


def new_network(recipe: Recipe, data: ImageSet, seed: int) -> Network:
    """The network for these images, with random weights, where training runs; its classifier is a cosine where the loss asks for one."""
    torch.manual_seed(seed)
    scale = getattr(recipe.loss, "cosine_scale", None)
    network = backbone.build(recipe.train.backbone["family"], recipe.backbone.model_dump(), data.channels, data.classes, scale)
    return network.to(device(), memory_format=torch.channels_last)


def run_epoch(
    epoch: int, epoch_batches: list[np.ndarray], train: Train, objective: Objective, optimiser: torch.optim.Optimizer, seed: int, bar: tqdm
) -> dict[str, Any]:
    """One pass over these batches of training images; the first columns of its row of the curve.

    Raises
    ------
    InputError
        If the loss is NaN or infinite, with what to try.
    """
    objective.network.train()
    generator = np.random.default_rng([seed, epoch, 1])
    loss, seen = 0.0, 0
    for place, rows in enumerate(epoch_batches):
        lr = learning_rate(train, epoch + (place + 0.5) / len(epoch_batches))  # its middle: neither end of the schedule is a step of rate 0
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.zero_grad(set_to_none=True)
        batch_loss = objective(rows, epoch / train.epochs, generator)
        batch_loss.backward()
        optimiser.step()
        # The sum stays a tensor, on the device: asking for a number at every step would make a GPU wait.
        loss, seen = loss + batch_loss.detach() * len(rows), seen + len(rows)
        bar.update(len(rows))
        if not bar.disable and place % 10 == 0:
            bar.set_description(f"epoch {epoch + 1}/{train.epochs}", refresh=False)
            bar.set_postfix_str(f"loss {float(loss) / seen:.3f}", refresh=False)
    if not math.isfinite(loss):
        raise InputError(
            f"train: the loss is {float(loss)} in epoch {epoch + 1} at a learning rate of {lr:.3g}: "
            "lower train.lr or raise train.warmup_epochs in params.yaml"
        )
    return {"epoch": epoch + 1, "loss": float(loss) / seen, "lr": lr}


def batches(order: np.ndarray, batch: int) -> list[np.ndarray]:
    """An epoch's images cut into batches; a last one of a single image is left out, because BatchNorm needs two."""
    return [rows for rows in np.split(order, range(batch, len(order), batch)) if len(rows) > 1]


def learning_rate(train: Train, epoch: float) -> float:
    """The rate at a point of training, in (fractional) epochs."""
    if epoch < train.warmup_epochs:
        return train.lr * epoch / train.warmup_epochs
    if train.schedule == "step":
        return train.lr * 0.01 ** ((epoch > 0.8 * train.epochs) + (epoch > 0.9 * train.epochs))
    return train.lr * 0.5 * (1 + math.cos(math.pi * (epoch - train.warmup_epochs) / (train.epochs - train.warmup_epochs)))


def class_rows(epoch: int, found: Progress, class_counts: np.ndarray) -> list[dict[str, Any]]:
    """Rows of training_classes.csv for one epoch."""
    return [
        {
            "epoch": epoch,
            "class": k,
            "train_images": int(images),
            "accuracy": 100 * found.accuracy[k],
            "classification_ratio": found.ratio[k],
            "gradient_norm": found.gradient_norm[k],
        }
        for k, images in enumerate(class_counts)
    ]
