"""Training: epochs of SGD on the objective, and what each of them gives.

Order, augmentation and mixing of an epoch are functions of (seed, epoch), so a training can go on from the end of any epoch. The progress
that losses and re-weightings see is that of whole epochs: epoch / epochs, in [0, 1).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from pipeline import augment, backbone, inference, progress
from pipeline.checkpoint import Checkpoint, State
from pipeline.device import arithmetic, device
from pipeline.feed import Feed
from pipeline.files import InputError
from pipeline.measure import Progress, measure, watched
from pipeline.network import Network
from pipeline.objective import Objective
from pipeline.optimiser import SGD, learning_rate
from pipeline.sampling import epoch_order

if TYPE_CHECKING:
    from tqdm import tqdm

    from pipeline.images import ImageSet
    from pipeline.recipe import Recipe, Train


# A loss stays where it was computed until so many are asked for at once: every question makes a GPU wait for all its work, but no CPU.
LOSSES_ASKED_FOR = {"cpu": 1, "cuda": 50}


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


def fit(recipe: Recipe, data: ImageSet, seed: int, checkpoint: Checkpoint | None = None) -> Trained:
    """Train from random weights, or from where the checkpoint stands; after every epoch the checkpoint has it."""
    train, place = recipe.train, device()
    arithmetic(place, train.deterministic)
    network = new_network(recipe, data, seed)
    bf16 = train.precision == "bf16" or (train.precision == "auto" and inference.bf16_pays(data.image_size, place))
    print(f"train: {data.about} on {place} in {'bf16' if bf16 else 'fp32'}", flush=True)
    objective = Objective(network, data.class_counts, recipe.loss, recipe.mixing, recipe.reweighting, bf16, train.compile)
    optimiser = SGD(network.parameters(), train.weight_decay)
    feed = Feed(data, getattr(augment, train.augment), place)
    order, rows = epoch_order(train.sampler, data.train.labels, train.epochs, seed), watched(data.train.labels, train.watch.images, seed)

    curve, classes = [], []
    if checkpoint and (state := checkpoint.load()):
        curve, classes = restore(state, network, optimiser)
    done, images = len(curve), len(data.train.labels)
    with progress.bar(None, "train", "img", train.epochs * images, initial=done * images, unit_scale=True) as bar:
        for epoch in range(done, train.epochs):
            row = run_epoch(epoch, batches(order(epoch), train.batch), train, objective, optimiser, feed, seed, bar)
            reached = epoch / train.epochs
            for_classes = (epoch + 1) % train.watch.every == 0 or epoch + 1 == train.epochs
            after = train.watch.after if for_classes else None
            found = measure(network, data, rows, lambda z, y, at=reached: objective.loss_of(z, y, at), train.batch, bf16, after)
            row["alpha"] = recipe.loss.alpha(reached) if callable(getattr(recipe.loss, "alpha", None)) else None
            row["train_accuracy"] = 100 * found.total
            row["val_accuracy"] = None if data.val is None else 100 * inference.accuracy(network, data.val, data, train.batch, bf16)
            curve.append(row)
            if for_classes:
                classes += class_rows(epoch + 1, found, data.class_counts)
            if checkpoint:
                checkpoint.save(state_of(network, optimiser, curve, classes))
            progress.say(line(row, train.epochs))
    return Trained(network.eval().cpu(), curve, classes)


def new_network(recipe: Recipe, data: ImageSet, seed: int) -> Network:
    """The network for these images, with random weights, where training runs; its classifier is a cosine where the loss asks for one."""
    torch.manual_seed(seed)
    scale = getattr(recipe.loss, "cosine_scale", None)
    network = backbone.build(recipe.train.backbone["family"], recipe.backbone.model_dump(), data.channels, data.classes, scale)
    return network.to(device(), memory_format=torch.channels_last)


def run_epoch(
    epoch: int,
    epoch_batches: list[np.ndarray],
    train: Train,
    objective: Objective,
    optimiser: SGD,
    feed: Feed,
    seed: int,
    bar: tqdm,
) -> dict[str, Any]:
    """One pass over these batches of training images; the first columns of its row of the curve.

    Raises
    ------
    InputError
        If a loss or, at the end, a weight is NaN or infinite: with the step and what to try.
    """
    objective.network.train()
    generator, steps = np.random.default_rng([seed, epoch, 1]), len(epoch_batches)
    rates = [learning_rate(train, epoch + (step + 0.5) / steps) for step in range(steps)]  # at its middle: no step has rate 0
    bar.set_description(f"epoch {epoch + 1}/{train.epochs}", refresh=False)
    waiting, losses, together = [], [], LOSSES_ASKED_FOR[objective.device.type]
    for step, (images, labels) in enumerate(feed.epoch(epoch_batches, generator)):
        loss = objective(images, labels, epoch / train.epochs, generator)
        optimiser.step(loss, rates[step])
        waiting.append(loss.detach())
        if len(waiting) == together or step + 1 == steps:
            for value in torch.stack(waiting).tolist():
                if not math.isfinite(value):
                    raise diverged(f"the loss is {value}", epoch, len(losses), rates)
                losses.append(value)
            waiting.clear()
            bar.set_postfix_str(f"loss {np.mean(losses[-100:]):.3f}", refresh=False)
        bar.update(len(labels))
    if not torch.stack([tensor.isfinite().all() for tensor in objective.network.state_dict().values()]).all():
        raise diverged("weights are NaN or infinite", epoch, steps - 1, rates)
    mean = np.average(losses, weights=[len(rows) for rows in epoch_batches])
    return {"epoch": epoch + 1, "loss": float(mean), "lr": rates[-1]}


def line(row: dict[str, Any], epochs: int) -> str:
    """An epoch's row of the curve as a line of a log."""
    val = "" if row["val_accuracy"] is None else f", val {row['val_accuracy']:.1f} %"
    return f"train: epoch {row['epoch']}/{epochs}: loss {row['loss']:.3f}, train {row['train_accuracy']:.1f} %{val}"


def diverged(what: str, epoch: int, step: int, rates: list[float]) -> InputError:
    """The error for a training that cannot go on; epoch and step count from 0."""
    return InputError(
        f"train: {what} at step {step + 1} of {len(rates)} in epoch {epoch + 1}, at a learning rate of {rates[step]:.3g}; no result "
        "is written. Lower train.lr or raise train.warmup_epochs in params.yaml"
    )


def batches(order: np.ndarray, batch: int) -> list[np.ndarray]:
    """An epoch's images cut into batches; a last one of a single image is left out, because BatchNorm needs two."""
    return [rows for rows in np.split(order, range(batch, len(order), batch)) if len(rows) > 1]


def class_rows(epoch: int, found: Progress, class_counts: np.ndarray) -> list[dict[str, Any]]:
    """Rows of training_classes.csv for one epoch, in Python's numbers: NumPy's round differently, and a checkpoint gives Python's back."""
    return [
        {
            "epoch": epoch,
            "class": k,
            "train_images": int(images),
            "accuracy": 100 * float(found.accuracy[k]),
            "classification_ratio": float(found.ratio[k]),
            "gradient_norm": float(found.gradient_norm[k]),
        }
        for k, images in enumerate(class_counts)
    ]


def state_of(network: Network, optimiser: SGD, curve: list[dict[str, Any]], classes: list[dict[str, Any]]) -> State:
    """All that the epochs to come depend on, and the tables so far; the long one as a tensor a column."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"velocity.{place}": tensor for place, tensor in enumerate(optimiser.velocities)}
    columns = list(classes[0]) if classes else []
    tensors |= {f"classes.{column}": torch.from_numpy(np.array([row[column] for row in classes])) for column in columns}  # in float64
    return State(len(curve), tensors, {"curve": curve, "columns": columns})


def restore(state: State, network: Network, optimiser: SGD) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Put a state back into network and optimiser; the tables so far, curve and classes."""
    network.load_state_dict({name: state.tensors[f"network.{name}"] for name in network.state_dict()})
    for place, velocity in enumerate(optimiser.velocities):
        velocity.copy_(state.tensors[f"velocity.{place}"])
    columns = state.record["columns"]
    values = zip(*(state.tensors[f"classes.{column}"].tolist() for column in columns), strict=True)
    return state.record["curve"], [dict(zip(columns, row, strict=True)) for row in values]
