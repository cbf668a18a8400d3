"""What the heads that learn by SGD share: batches of cached features, the loss, and the parameters that choose them.

A head brings a student, any callable from features (b, d) to logits (b, c) with a list `learned` of its parameters; `Retraining.learn`
trains it. Everything here works in the precision of the features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator

from pipeline.classifier import Transform
from pipeline.features import Features
from pipeline.params import Params
from pipeline.sampling import Sampler, epoch_order

if TYPE_CHECKING:
    import torch


class Student(Protocol):
    """What learns: logits (b, c) of features (b, d), from the parameters in `learned`."""

    learned: list[torch.Tensor]

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class Retraining(Params):
    """Parameters of a classifier's training.

    epochs : passes of as many samples as the training set has
    batch, lr, weight_decay : features a step, rate at the start of the cosine, on everything that learns
    sampler : as stage one's (pipeline/sampling.py); `class_balanced` is the class-aware sampler of Kang et al.'s code
    loss : `ce`; `balanced_softmax`, cross-entropy of z + log n (Ren et al. 2020); `logit_adjust`, of z + τ log p (Menon et al. 2021,
        Eq. 10); `class_balanced`, weighted by the inverse effective number of samples (Cui et al. 2019, Eq. 2 and 6).
        These three go by the class sizes of the training set, whatever of them `square_root` or `progressive` has evened out
    tau, beta : τ of `logit_adjust`; β of `class_balanced`
    label_smoothing : share of the target that is spread over all classes; LOS (Sun et al. 2025) takes 0.98 and needs no class counts
    views : whether every draw takes one of the cached views of its image, where features.h5 has some; else the clean features
    precision : `bf16` multiplies in bfloat16 (weights and loss stay as they are): faster on large features
    """

    epochs: int = Field(10, ge=1)
    batch: int = Field(512, ge=1)
    lr: float = Field(0.2, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    sampler: Sampler = "class_balanced"
    loss: Literal["ce", "balanced_softmax", "logit_adjust", "class_balanced"] = "ce"
    tau: float = Field(1.0, ge=0)
    beta: float = Field(0.9999, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, le=1)
    views: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _corrects_once(self) -> Retraining:
        if self.loss != "ce" and self.sampler == "class_balanced":
            raise ValueError(f"loss {self.loss} corrects for class sizes, as sampler class_balanced does already; set sampler: instance")
        return self

    def learn(
        self,
        student: Student,
        train: Features,
        seed: int,
        name: str,
        transform: Transform | None = None,
        after_step: Callable[[], object] | None = None,
    ) -> None:
        """Train the student on features behind `transform`.

        name : shown on the progress bar
        after_step : called behind every step, for a projection
        """
        import torch

        from pipeline.device import device
        from pipeline.sgd import minimise

        batches = Batches(train, self.sampler, self.epochs, self.batch, seed, self.views, transform or Transform())
        criterion = self.criterion(train.class_counts, batches.dtype)

        def losses() -> Iterator[torch.Tensor]:
            for x, y in batches:
                with torch.autocast(device().type, torch.bfloat16, enabled=self.precision == "bf16"):
                    logits = student(x)
                yield criterion(logits.to(batches.dtype), y)

        minimise(student.learned, losses(), batches.steps, self.lr, self.weight_decay, name, after_step)

    def criterion(self, class_counts: np.ndarray, dtype: torch.dtype) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The loss of logits (b, c) and labels (b,), a scalar; weighted, Σ w L / Σ w as in torch."""
        from torch.nn.functional import cross_entropy

        from pipeline.sgd import to_device

        counts = np.maximum(class_counts, 1).astype(float)  # a class without samples has no say, but a finite logarithm
        shift = weight = None
        if self.loss == "balanced_softmax":
            shift = to_device(np.log(counts)).to(dtype)
        elif self.loss == "logit_adjust":
            shift = to_device(self.tau * np.log(counts / class_counts.sum())).to(dtype)
        elif self.loss == "class_balanced":
            weight = to_device((1 - self.beta) / (1 - self.beta**counts)).to(dtype)
        return lambda logits, labels: cross_entropy(
            logits if shift is None else logits + shift, labels, weight, label_smoothing=self.label_smoothing
        )


class Batches:
    """All batches of a training, in order: features (b, d) and labels (b,) on the device. The last of an epoch may be smaller.

    Features are gathered a batch at a time and transformed then, so nothing the size of the training set is made. What is drawn, and of
    which view, is a function of (seed, epoch).
    """

    def __init__(self, train: Features, sampler: Sampler, epochs: int, batch: int, seed: int, views: bool, transform: Transform) -> None:
        import torch

        from pipeline.sgd import to_device

        self.count, self.epochs, self.batch, self.seed, self.transform = len(train.labels), epochs, batch, seed, transform
        self.order = epoch_order(sampler, train.labels, epochs, seed)
        self.labels = to_device(train.labels)
        if views and train.views is not None:  # stay in their file, which is V times as large as the features
            self.views = len(train.views)
            self.source = torch.from_numpy(np.require(train.views, requirements="W").reshape(-1, train.dim))
        else:
            self.views, self.source = 1, to_device(train.features)
        self.dtype = torch.float32 if self.source.dtype == torch.float16 else self.source.dtype
        self.steps = epochs * -(-self.count // batch)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        import torch

        for epoch in range(self.epochs):
            rows = self.order(epoch)
            view = np.random.default_rng([self.seed, epoch, 5]).integers(self.views, size=len(rows)) if self.views > 1 else 0
            places = torch.from_numpy(view * self.count + rows).to(self.source.device)
            labels = self.labels[torch.from_numpy(rows).to(self.labels.device)]
            for some, y in zip(places.split(self.batch), labels.split(self.batch), strict=True):
                yield transformed(self.source.index_select(0, some).to(y.device, self.dtype), self.transform), y


def transformed(x: torch.Tensor, transform: Transform) -> torch.Tensor:
    """What `transform` makes of features (b, d), as `Transform` itself does in NumPy."""
    import torch

    if transform.centre is not None:
        x = x - torch.as_tensor(transform.centre, dtype=x.dtype, device=x.device)
    if transform.power != 1:
        x = x.sign() * x.abs() ** transform.power
    return torch.nn.functional.normalize(x) if transform.l2 else x
