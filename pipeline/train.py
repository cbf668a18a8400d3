"""Stage `train`: stage one, a backbone and its classifier on the long-tailed images.

Loss, mixing and re-weighting are three independent choices, each a module found by its name and put together in pipeline/objective.py;
sampler and augmentation are two more. This file checks the choices and writes what comes out; pipeline/stage_one.py trains.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from pipeline import backbone, params
from pipeline.files import InputError, note_time, write_csv
from pipeline.sampling import Sampler

if TYPE_CHECKING:
    from pipeline.images import ImageSet

CURVE = Path("data/training.csv")
CLASSES = Path("data/training_classes.csv")


class Watch(params.Params):
    """images : training images that are measured after each epoch, about so many; every : epochs from one row a class to the next."""

    images: int = Field(ge=1)
    every: int = Field(ge=1)


class Train(params.Params):
    """The `train` section.

    backbone : `family` (a module of pipeline/backbones) and its options
    loss, mix, reweight : modules of pipeline/losses, pipeline/mixing, pipeline/reweighting
    sampler : `instance` (every image once an epoch), `class_balanced`, `square_root` or `progressive` (pipeline/sampling.py)
    augment : a function of pipeline/augment.py
    epochs, warmup_epochs : passes over the training set; of linear warm-up from 0
    batch : images a step; a last batch of a single image is left out (BatchNorm needs two)
    lr, schedule : peak rate; `cosine` to 0, or `step`: x 0.01 after 80 % and again after 90 % of training (LDAM-DRW's 160 and 180 of 200)
    weight_decay : on all parameters; SGD has momentum 0.9, no Nesterov
    precision : `bf16` trains under autocast; `auto` chooses bf16 where it pays (`inference.bf16_pays`)
    watch : what is measured while training (pipeline/measure.py)
    """

    backbone: dict[str, Any]
    loss: str
    mix: str
    reweight: str
    sampler: Sampler
    augment: Literal["none", "shift", "plain", "large", "autoaugment"]
    epochs: int = Field(ge=1)
    batch: int = Field(ge=2)
    lr: float = Field(gt=0)
    warmup_epochs: int = Field(ge=0)
    schedule: Literal["cosine", "step"]
    weight_decay: float = Field(ge=0)
    precision: Literal["auto", "fp32", "bf16"]
    watch: Watch

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
    check_images(method.train, data)

    from pipeline import stage_one

    start = time.perf_counter()
    trained = stage_one.fit(method, data, seed)
    seconds = time.perf_counter() - start
    backbone.save(trained.network, method.train.backbone["family"], method.backbone.model_dump(), data.channels)
    write_rounded(CURVE, trained.curve)
    write_rounded(CLASSES, trained.classes)
    count = method.train.epochs * len(data.train.labels)
    note_time("train", seconds, count)
    print(
        f"train: {method.train.loss}, mix {method.train.mix}, re-weighting {method.train.reweight}: {method.train.epochs} epochs of "
        f"{len(data.train.labels):,} images in {seconds:.1f} s ({count / seconds:,.0f} images/s) -> {backbone.FILE}, {CURVE}, {CLASSES}"
    )


def read_params(tree: dict[str, Any]) -> Method:
    """Check the `train` section, those of the modules that it names and that they fit together, before torch or data is touched."""
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
    method = Method(train, network, loss, mixing, reweighting)
    check_combination(method)
    return method


def check_combination(method: Method) -> None:
    """Refuse what cannot be or makes no sense together.

    Raises
    ------
    InputError
        If features are to be mixed behind a group that the backbone does not have, or if the imbalance would be corrected twice: a
        class-balanced sampler has removed it already when a loss or re-weighting for the training set's class sizes corrects for it
        (`square_root` and `progressive` leave some of it, so they combine with all).
    """
    train, after = method.train, getattr(method.mixing, "after", 0)
    for where in after if isinstance(after, list) else [after]:
        if where > len(method.backbone.groups):
            raise InputError(
                f"params.yaml: mixing.{train.mix}.after: the backbone {train.backbone['family']!r} has "
                f"{len(method.backbone.groups)} groups ({', '.join(method.backbone.groups)}), got {where}"
            )
    if train.sampler == "class_balanced":
        for key, chosen in (("loss", method.loss), ("reweight", method.reweighting)):
            if getattr(chosen, "balances", False):
                raise InputError(
                    f"params.yaml: train.{key}: {getattr(train, key)!r} corrects for class sizes that sampler: class_balanced has already "
                    "made equal; use it with another sampler, or this sampler without it"
                )


def check_images(train: Train, data: ImageSet) -> None:
    """Refuse images that cannot be trained on in this way."""
    from pipeline import images

    if len(data.train.labels) < 2:
        raise InputError(f"{images.FILE}: holds a single training image; stage one needs at least two")
    if train.augment == "autoaugment" and data.channels != 3:
        raise InputError(
            "params.yaml: train.augment: 'autoaugment' is a policy for colour images, and these are grey; try 'shift' or 'plain'"
        )


def write_rounded(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table of numbers, to six digits behind the point; None is an empty cell."""
    write_csv(path, [{key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()} for row in rows])


if __name__ == "__main__":
    main()
