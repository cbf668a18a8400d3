"""Stage `train`: stage one, a backbone and its linear classifier on the long-tailed images.

Loss, mixing and re-weighting are three independent choices, each a module found by its name and put together in pipeline/objective.py.
Order, augmentation and mixing of an epoch are functions of (seed, epoch). The progress that losses and re-weightings see is that of whole
epochs: epoch / epochs, in [0, 1).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from pipeline import backbone, params
from pipeline.files import InputError, note_time, write_csv
from pipeline.sampling import class_balanced

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

    from pipeline.images import ImageSet
    from pipeline.network import Network
    from pipeline.objective import Objective

CURVE = Path("data/training.csv")


class Train(params.Params):
    """The `train` section.

    backbone : `family` (a module of pipeline/backbones) and its options
    loss, mix, reweight : modules of pipeline/losses, pipeline/mixing, pipeline/reweighting
    sampler : `instance` (every image once an epoch) or `class_balanced` (pipeline/sampling.py)
    augment : a function of pipeline/augment.py
    epochs, warmup_epochs : passes over the training set; of linear warm-up from 0
    batch : images a step; a last batch of a single image is left out (BatchNorm needs two)
    lr, schedule : peak rate; `cosine` to 0, or `step`: x 0.01 after 80 % and again after 90 % of training (LDAM-DRW's 160 and 180 of 200)
    weight_decay : on all parameters; SGD has momentum 0.9, no Nesterov
    precision : `bf16` trains under autocast; `auto` chooses bf16 where it pays (`inference.bf16_pays`)
    """

    backbone: dict[str, Any]
    loss: str
    mix: str
    reweight: str
    sampler: Literal["instance", "class_balanced"]
    augment: Literal["none", "shift", "plain", "large", "autoaugment"]
    epochs: int = Field(ge=1)
    batch: int = Field(ge=2)
    lr: float = Field(gt=0)
    warmup_epochs: int = Field(ge=0)
    schedule: Literal["cosine", "step"]
    weight_decay: float = Field(ge=0)
    precision: Literal["auto", "fp32", "bf16"]

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Train:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) should be less than epochs ({self.epochs})")
        return self


class Method(NamedTuple):
    """What params.yaml chose, each checked: the `train` section and the parameters of its four modules."""

    train: Train
    backbone: Any
    loss: Any
    mixing: Any
    reweighting: Any


def main() -> None:
    tree = params.read()
    method, seed = read_params(tree), params.seed(tree, "train")

    from pipeline import images

    data = images.load()
    if len(data.train.labels) < 2:
        raise InputError(f"{images.FILE}: holds a single training image; stage one needs at least two")
    if method.train.augment == "autoaugment" and data.channels != 3:
        raise InputError(
            "params.yaml: train.augment: 'autoaugment' is a policy for colour images, and these are grey; try 'shift' or 'plain'"
        )
    start = time.perf_counter()
    network, curve = fit(method, data, seed)
    seconds = time.perf_counter() - start
    backbone.save(network, method.train.backbone["family"], method.backbone.model_dump(), data.channels)
    write_curve(curve)
    count = method.train.epochs * len(data.train.labels)
    note_time("train", seconds, count)
    print(
        f"train: {method.train.loss}, mix {method.train.mix}, re-weighting {method.train.reweight}: {method.train.epochs} epochs of "
        f"{len(data.train.labels):,} images in {seconds:.1f} s ({count / seconds:,.0f} images/s) -> {backbone.FILE}, {CURVE}"
    )


def read_params(tree: dict[str, Any]) -> Method:
    """Check the `train` section and those of the modules that it names, before torch or data is touched."""
    train = params.section(tree, "train", Train)
    family = train.backbone.get("family")
    module = params.method("backbones", family, "train.backbone.family")
    network = params.section(tree, "train.backbone", module.Backbone, without=("family",))
    loss = params.section(tree, f"losses.{train.loss}", params.method("losses", train.loss, "train.loss").Loss)
    mixing = params.section(tree, f"mixing.{train.mix}", params.method("mixing", train.mix, "train.mix").Mixing)
    reweighting = params.section(
        tree,
        f"reweighting.{train.reweight}",
        params.method("reweighting", train.reweight, "train.reweight").Reweighting,
    )
    after = getattr(mixing, "after", 0)
    for where in after if isinstance(after, list) else [after]:
        if where > len(network.groups):
            raise InputError(
                f"params.yaml: mixing.{train.mix}.after: the backbone {family!r} has {len(network.groups)} groups "
                f"({', '.join(network.groups)}), got {where}"
            )
    return Method(train, network, loss, mixing, reweighting)


def fit(method: Method, data: ImageSet, seed: int) -> tuple[Network, list[dict[str, float | None]]]:
    """Train from random weights.

    Returns
    -------
    network : on the CPU, in evaluation mode
    curve : one row an epoch: epoch (from 1), loss (mean over the epoch's images, nats), lr (at its last step), train_accuracy (percent,
        over the epoch's augmented and mixed batches), val_accuracy (percent, over all validation images; None without any)
    """
    import torch
    from tqdm import tqdm

    from pipeline import augment, inference
    from pipeline.device import device
    from pipeline.objective import Objective

    train, place = method.train, device()
    torch.manual_seed(seed)
    network = backbone.build(
        train.backbone["family"], method.backbone.model_dump(), data.channels, data.classes, getattr(method.loss, "cosine_scale", None)
    )
    network = network.to(place, memory_format=torch.channels_last)
    bf16 = train.precision == "bf16" or (train.precision == "auto" and inference.bf16_pays(data.image_size, place))
    augmentation = getattr(augment, train.augment)
    objective = Objective(network, data, method.loss, method.mixing, method.reweighting, augmentation, bf16)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9, weight_decay=train.weight_decay)

    batches_of, curve = batches(train, data.train.labels, seed), []
    with tqdm(total=train.epochs * len(data.train.labels), unit="img", unit_scale=True, disable=None, leave=False) as bar:
        for epoch in range(train.epochs):
            row = run_epoch(epoch, batches_of(epoch), train, objective, optimiser, seed, bar)
            val = None if data.val is None else 100 * inference.accuracy(network, data.val, data, train.batch)
            curve.append({**row, "val_accuracy": val})
    return network.eval().cpu(), curve


def run_epoch(
    epoch: int, epoch_batches: list[np.ndarray], train: Train, objective: Objective, optimiser: torch.optim.Optimizer, seed: int, bar: tqdm
) -> dict[str, float]:
    """One pass over the training set in these batches; its row of the curve.

    Raises
    ------
    InputError
        If the loss is NaN or infinite, with what to try.
    """
    objective.network.train()
    generator = np.random.default_rng([seed, epoch, 1])
    loss, right, seen = 0.0, 0, 0
    for place, rows in enumerate(epoch_batches):
        lr = learning_rate(train, epoch + (place + 0.5) / len(epoch_batches))  # its middle: neither end of the schedule is a step of rate 0
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.zero_grad(set_to_none=True)
        outcome = objective(rows, epoch / train.epochs, generator)
        outcome.loss.backward()
        optimiser.step()
        # Sums stay tensors, on the device: asking for a number at every step would make a GPU wait.
        loss, right, seen = loss + outcome.loss.detach() * len(rows), right + outcome.right, seen + len(rows)
        bar.update(len(rows))
        if not bar.disable and place % 10 == 0:
            bar.set_description(f"epoch {epoch + 1}/{train.epochs}", refresh=False)
            bar.set_postfix_str(f"loss {float(loss) / seen:.3f}, accuracy {100 * float(right) / seen:.1f} %", refresh=False)
    if not math.isfinite(loss):
        raise InputError(
            f"train: the loss is {float(loss)} in epoch {epoch + 1} at a learning rate of {lr:.3g}: "
            "lower train.lr or raise train.warmup_epochs in params.yaml"
        )
    return {"epoch": epoch + 1, "loss": float(loss) / seen, "lr": lr, "train_accuracy": 100 * float(right) / seen}


def learning_rate(train: Train, epoch: float) -> float:
    """The rate at a point of training, in (fractional) epochs."""
    if epoch < train.warmup_epochs:
        return train.lr * epoch / train.warmup_epochs
    if train.schedule == "step":
        return train.lr * 0.01 ** ((epoch > 0.8 * train.epochs) + (epoch > 0.9 * train.epochs))
    return train.lr * 0.5 * (1 + math.cos(math.pi * (epoch - train.warmup_epochs) / (train.epochs - train.warmup_epochs)))


def batches(train: Train, labels: np.ndarray, seed: int) -> Callable[[int], list[np.ndarray]]:
    """A function of the epoch that gives its batches, each of indices into the training images."""
    n = len(labels)
    if train.sampler == "class_balanced":  # one draw for the whole run: the cycles go on from epoch to epoch
        drawn = class_balanced(labels, train.epochs * n, np.random.default_rng([seed, 0])).reshape(train.epochs, n)

    def of(epoch: int) -> list[np.ndarray]:
        order = drawn[epoch] if train.sampler == "class_balanced" else np.random.default_rng([seed, epoch, 0]).permutation(n)
        return [rows for rows in np.split(order, range(train.batch, n, train.batch)) if len(rows) > 1]

    return of


def write_curve(curve: list[dict[str, float | None]]) -> None:
    """Write training.csv, one row an epoch."""
    write_csv(CURVE, [{key: None if value is None else round(value, 6) for key, value in row.items()} for row in curve])


if __name__ == "__main__":
    main()
