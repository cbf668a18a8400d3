"""AFG, adaptive feature generation (Zhang and Xiang 2022, GLAG, section 4.2, Eq. 5-11).

Every epoch each class is filled up to the size of the largest with new features: tail classes from a Gaussian around each of their samples,
calibrated with the nearest larger classes (pipeline/calibration.py), head classes from their own Gaussian. A classifier learns from real
and generated features; on head classes stage one's classifier teaches it, with a weight that grows like GraLoss's α.

What the paper leaves open, and what is done here:
- Tukey's λ (`power`): 0.9, applied to all features before any mean, distance or covariance is taken; draws are mapped back, so that
  stage one's weights, the teacher and raw test features stay valid. Signed features take the signed power.
- Head classes are those with more than `head` training images; the largest third where that is no class or every class.
- β starts at 0.6 (section 5.1; section 5.3 says 0.4). After each epoch it is multiplied by 1.1 for a tail class that did better on the
  validation set than an epoch ago and by 0.9 for one that did worse, kept within [0, 1]: the rule of FASA, which the paper cites.
  "Better" is the class's mean loss (`val_loss`), or the paper's accuracy (`val_accuracy`), which is coarse on a few images.
  Without validation images of a class, its training images are asked; the record says so.
- Where stage one has a cosine classifier (LDAM), all of this happens on features of unit length, which is what that classifier sees.
- The classifier is LWS (the caption of Fig. 2 names it); `crt` learns a new linear one.
- Distillation is T² KL(teacher || student) over all classes at T = 2, averaged over the batch's samples of head classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.head import main
from pipeline.params import Params

if TYPE_CHECKING:
    import torch

CHUNK = 16384  # features generated at a time: memory stays flat however large the balanced set is


class Head(Params):
    """Parameters of AFG.

    power : Tukey's λ
    head : a class of more training images is a head class
    support : K of Eq. 7, how many classes a tail sample borrows from (2 or 3 in the paper)
    beta, adaptive, signal : where β starts, whether it moves, and by which figure of the validation set
    gamma : γ of Eq. 9 (0 or 0.1 in the paper)
    distill, temperature, c, s : whether stage one teaches the head classes (Eq. 11), T, and α = s (c^ep - 1)
    classifier : `lws` learns one factor a class, `crt` a new linear layer
    epochs, batch (features), lr (at the start of the cosine), weight_decay (on what is learned)
    """

    power: float = Field(0.9, gt=0, le=1)
    head: int = Field(100, ge=0)
    support: int = Field(2, ge=1)
    beta: float = Field(0.6, ge=0, le=1)
    adaptive: bool = True
    signal: Literal["val_loss", "val_accuracy"] = "val_loss"
    gamma: float = Field(0.0, ge=0)
    distill: bool = True
    temperature: float = Field(2.0, gt=0)
    c: float = Field(2.0, gt=1)
    s: float = Field(1.0, gt=0)
    classifier: Literal["lws", "crt"] = "lws"
    epochs: int = Field(40, ge=1)
    batch: int = Field(512, ge=1)
    lr: float = Field(0.1, gt=0)
    weight_decay: float = Field(5e-4, ge=0)

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Train the classifier on real and generated features; `record` keeps β's path, (epochs + 1, c)."""
        import torch
        from torch.nn.functional import linear

        from pipeline.device import device
        from pipeline.generation import Plan, Source, balanced_plan
        from pipeline.sgd import minimise, to_device

        stage_one = train.stage_one("afg")
        train, val = train.seen_by(stage_one), val and val.seen_by(stage_one)
        weight, bias = to_device(stage_one.weight), to_device(stage_one.bias)
        student = Student(self.classifier, weight, bias, seed)
        is_head = head_classes(train.class_counts, self.head)
        source, heads = Source(train, is_head, self.power, self.support, self.gamma), to_device(is_head)
        judge, selected_on = judging_set(train, val, ~is_head)
        moves = ~is_head & (judge.class_counts > 0) & self.adaptive
        path = [np.full(train.classes, self.beta)]
        rng, generator = np.random.default_rng(seed), torch.Generator(device()).manual_seed(seed)
        per_chunk = max(CHUNK // self.batch, 1) * self.batch

        def losses() -> Iterator[torch.Tensor]:
            before = goodness(student, judge, self.signal)
            for epoch in range(self.epochs):
                alpha = self.s * (self.c ** (epoch / self.epochs) - 1)
                plan = balanced_plan(train.labels, rng)
                beta = to_device(path[-1].astype(np.float32))
                for start in range(0, len(plan.labels), per_chunk):
                    chunk = Plan(*(column[start : start + per_chunk] for column in plan))
                    features, labels = source.generate(chunk, beta, generator), to_device(chunk.labels)
                    for x, y in zip(features.split(self.batch), labels.split(self.batch), strict=True):
                        yield self.loss(student(x), linear(x, weight, bias), y, heads, alpha)
                after = goodness(student, judge, self.signal)
                path.append(np.where(moves, moved(path[-1], before, after), path[-1]))
                before = after

        balanced = int(train.class_counts.max() * (train.class_counts > 0).sum())
        minimise(student.learned, losses(), self.epochs * -(-balanced // self.batch), self.lr, self.weight_decay, "afg")
        record = {"beta": np.round(path, 4).tolist(), "selected_on": selected_on if moves.any() else "nothing"}
        return Classifier.linear(*student.layer(), transform=stage_one.transform, absent=train.absent, record=record)

    def loss(self, logits: torch.Tensor, taught: torch.Tensor, labels: torch.Tensor, heads: torch.Tensor, alpha: float) -> torch.Tensor:
        """Eq. 11, a scalar: cross-entropy over the batch plus α times the distillation of its samples of head classes.

        logits and taught (b, c) are the student's and stage one's, heads (c,) bool.
        """
        from torch.nn.functional import cross_entropy, kl_div

        loss = cross_entropy(logits, labels)
        which = heads[labels]
        if self.distill and alpha > 0 and which.any():
            student, teacher = ((z[which] / self.temperature).log_softmax(1) for z in (logits, taught))
            distance = kl_div(student, teacher, reduction="batchmean", log_target=True)
            loss = loss + alpha * self.temperature**2 * distance
        return loss


class Student:
    """The classifier that learns: stage one's weight (c, d) and bias (c,) with a factor for each class (`lws`), or new ones (`crt`)."""

    def __init__(self, kind: str, weight: torch.Tensor, bias: torch.Tensor, seed: int) -> None:
        from pipeline.sgd import new_linear

        self.kind, self.fixed = kind, (weight, bias)
        if kind == "lws":
            self.learned = [weight.new_ones(len(weight)).requires_grad_()]
        else:
            self.learned = list(new_linear(*weight.shape, seed))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (b, c) of features (b, d)."""
        from torch.nn.functional import linear

        return self.learned[0] * linear(x, *self.fixed) if self.kind == "lws" else linear(x, *self.learned)

    def layer(self) -> list[np.ndarray]:
        """Weight (c, d) and bias (c,) with what was learned folded in."""
        if self.kind == "crt":
            return [tensor.detach().cpu().numpy() for tensor in self.learned]
        factors, (weight, bias) = self.learned[0].detach(), self.fixed
        return [(weight * factors[:, None]).cpu().numpy(), (bias * factors).cpu().numpy()]


def head_classes(counts: np.ndarray, above: int) -> np.ndarray:
    """Classes of more than `above` samples, (c,) bool; the largest third where that is no class or every class."""
    chosen = counts > above
    if chosen.all() or not chosen.any():
        chosen = np.zeros(len(counts), bool)
        chosen[np.argsort(-counts, kind="stable")[: max(len(counts) // 3, 1)]] = True
    return chosen


def judging_set(train: Features, val: Features | None, tail: np.ndarray) -> tuple[Features, str]:
    """The samples that judge whether a tail class got better, and their split: validation, and training for those without any there.

    tail : (c,) bool
    """
    if val is None:
        return train, "train"
    lacking = ((val.class_counts == 0) & tail)[train.labels]
    if not lacking.any():
        return val, "val"
    features = np.concatenate([val.features, train.features[lacking]])
    return Features(features, np.concatenate([val.labels, train.labels[lacking]]), train.classes), "val + train"


def goodness(student: Student, judge: Features, signal: str) -> np.ndarray:
    """How well each class does, (c,), larger is better: minus its mean loss, or its accuracy (a fraction); 0 without a sample."""
    import torch
    from torch.nn.functional import cross_entropy

    from pipeline.sgd import to_device

    total = np.zeros(judge.classes)
    for start in range(0, len(judge.labels), CHUNK):
        with torch.no_grad():
            logits, labels = student(to_device(judge.features[start : start + CHUNK])), to_device(judge.labels[start : start + CHUNK])
            each = -cross_entropy(logits, labels, reduction="none") if signal == "val_loss" else logits.argmax(1) == labels
        total += np.bincount(labels.cpu(), weights=each.double().cpu(), minlength=judge.classes)
    return total / np.maximum(judge.class_counts, 1)


def moved(beta: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """β of the next epoch: x 1.1 where the class does better than an epoch ago, x 0.9 where worse, within [0, 1]."""
    return np.clip(beta * np.where(after > before, 1.1, np.where(after < before, 0.9, 1.0)), 0, 1)


if __name__ == "__main__":
    main(Head)
