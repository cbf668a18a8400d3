"""The `train` section of params.yaml: what stage one does, and whether it makes sense.

Loss, mixing, re-weighting and backbone are modules found by their names; sampler and augmentation are named choices.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from pipeline import params
from pipeline.files import InputError
from pipeline.sampling import Sampler

if TYPE_CHECKING:
    from pipeline.images import ImageSet


class Watch(params.Params):
    """What is measured while training (pipeline/measure.py).

    images : about so many training images are measured after each epoch
    every : epochs from one row a class to the next
    after : number of groups behind which gradients are taken (2 = behind stage 1, where MFW mixes)
    """

    images: int = Field(ge=1)
    every: int = Field(ge=1)
    after: int = Field(ge=0)


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
    compile : whether torch.compile fuses the network's operations, for half a minute at the start
    deterministic : on a GPU, whether to take only algorithms that give the same bytes on every run; on a CPU they always do
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
    compile: bool = False
    deterministic: bool = True
    watch: Watch

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Train:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) should be less than epochs ({self.epochs})")
        return self


class Recipe(NamedTuple):
    """What params.yaml chose, each checked: the `train` section and the parameters of its four modules."""

    train: Train
    backbone: Any
    loss: Any
    mixing: Any
    reweighting: Any


def read(tree: dict[str, Any]) -> Recipe:
    """Check the `train` section, those of the modules that it names and that they fit together, before torch or data is touched."""
    train = params.section(tree, "train", Train)
    family = params.at(tree, "train.backbone.family")
    module = params.method("backbones", family, "train.backbone.family")
    network = params.section(tree, "train.backbone", params.model_of(module, "Backbone"), without=("family",))
    loss = params.of_method(tree, "losses", train.loss, "train.loss", "Loss")
    mixing = params.of_method(tree, "mixing", train.mix, "train.mix", "Mixing")
    reweighting = params.of_method(tree, "reweighting", train.reweight, "train.reweight", "Reweighting")
    recipe = Recipe(train, network, loss, mixing, reweighting)
    check_combination(recipe)
    return recipe


def check_combination(recipe: Recipe) -> None:
    """Refuse what cannot be or makes no sense together.

    A class-balanced sampler shows all classes equally often. Under it, a loss that puts the class prior into the logits, or a weight by
    class size, corrects for an imbalance that is no longer there. (Margins and temperatures, LDAM and CDT, are no priors; a loss and a
    re-weighting may share the correction; `square_root` and `progressive` leave some of the imbalance.)

    Raises
    ------
    InputError
        In that case, if something is to happen behind a group that the backbone does not have, or if what compiles needs is missing.
    """
    train, groups = recipe.train, recipe.backbone.groups
    after = getattr(recipe.mixing, "after", 0)
    places = [(f"mixing.{train.mix}.after", where) for where in (after if isinstance(after, list) else [after])]
    for key, where in [*places, ("train.watch.after", train.watch.after)]:
        if where > len(groups):
            raise InputError(
                f"params.yaml: {key}: the backbone {train.backbone['family']!r} has {len(groups)} groups ({', '.join(groups)}), got {where}"
            )
    if train.compile and not shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")):
        raise InputError("params.yaml: train.compile: torch.compile needs a C++ compiler, g++ or what CXX names, and finds none")
    if train.sampler == "class_balanced":
        for key, chosen in (("loss", recipe.loss), ("reweight", recipe.reweighting)):
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
