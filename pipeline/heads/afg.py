"""AFG, adaptive feature generation (Zhang and Xiang 2022, GLAG, section 4.2, Eq. 5-11).

Every epoch each class is filled up to the size of the largest with new features: tail classes from a Gaussian around each of their samples,
calibrated with the nearest larger classes (pipeline/calibration.py), head classes from their own Gaussian. A classifier learns from real
and generated features; on head classes stage one's classifier teaches it, with a weight that grows like GraLoss's α.

What the paper leaves open, or is done otherwise here:
- Tukey's λ (`power`): 0.9. The paper transforms samples of tail classes, but no mean and no covariance; here all features are transformed
  before any mean, distance or covariance is taken, so that they compare. Draws are mapped back, so that stage one's weights, the teacher
  and raw test features stay valid. Signed features take the signed power.
- The covariance Σ_i of Eq. 9 is that of the sample's own class: Eq. 6 has covariances of classes only.
- Head classes are those with more than `head` training images; the largest third where that is no class or every class.
- β starts at 0.6 (section 5.1; section 5.3 says 0.4). After each epoch it is multiplied by 1.1 for a tail class that did better on the
  validation set than an epoch ago and by 0.9 for one that did worse, kept within [0, 1]: the rule by which FASA, which the paper cites,
  moves the chance that a cluster of classes is drawn, for each class on its own.
  "Better" is the class's mean loss (`val_loss`), or the paper's accuracy (`val_accuracy`), which is coarse on a few images.
  Without validation images of a class, its training images are asked; the record says so.
- Where stage one has a cosine classifier (LDAM), all of this happens on features of unit length, which is what that classifier sees;
  draws keep the length they come out with.
- The classifier is LWS (the caption of Fig. 2 names it); `crt` learns a new linear one.
- Distillation is T² KL(teacher || student) over all classes at T = 2, averaged over the batch's samples of head classes.
- Batches of 512 at a rate of 0.1; the paper has the 40 epochs and the cosine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from pipeline.classifier import Classifier, Transform
from pipeline.features import Features
from pipeline.head import main
from pipeline.params import Params
from pipeline.progress import say
from pipeline.retraining import Retraining, Student
from pipeline.search import judges

if TYPE_CHECKING:
    import torch

    from pipeline.students import Layer, Scales

NUMBERS = 2**25  # of features generated at a time, or of logits: memory stays flat however large the balanced set is


class Head(Params):
    """Parameters of AFG.

    power : Tukey's λ
    head : a class of more training images is a head class
    support : K of Eq. 7, how many classes a tail sample borrows from (2 or 3 in the paper)
    beta, adaptive, signal : where β starts, whether it moves, and by which figure of the validation set
    gamma : γ of Eq. 9 (0 or 0.1 in the paper)
    dispersion : γ as γ I (`identity`), or added to all entries of Σ as in the code of Few-Shot Distribution Calibration and TailCalib
        (`all_entries`): one random offset for all dimensions of a feature
    per_epoch : features an epoch: all of the balanced set (`balanced`, the paper), or a random part of it that is as large as the training
        set (`real`), where TailCalibX's code stops
    distill, temperature, c, s : whether stage one teaches the head classes (Eq. 11), T, and α = s (c^ep - 1)
    classifier : `lws` learns one factor a class, `crt` a new linear layer
    views : whether a real feature is one of the cached views of its image, drawn anew each epoch, where features.h5 has some; Gaussians and
        β are those of the clean features all the same
    tukey_only : no generation and no distillation, only the transform: what Few-Shot Distribution Calibration's users found to do as well
    epochs, batch (features), lr (at the start of the cosine), weight_decay (on what is learned)
    """

    power: float = Field(0.9, gt=0, le=1)
    head: int = Field(100, ge=0)
    support: int = Field(2, ge=1)
    beta: float = Field(0.6, ge=0, le=1)
    adaptive: bool = True
    signal: Literal["val_loss", "val_accuracy"] = "val_loss"
    gamma: float = Field(0.0, ge=0)
    dispersion: Literal["identity", "all_entries"] = "identity"
    per_epoch: Literal["balanced", "real"] = "balanced"
    distill: bool = True
    temperature: float = Field(2.0, gt=0)
    c: float = Field(2.0, gt=1)
    s: float = Field(1.0, gt=0)
    classifier: Literal["lws", "crt"] = "lws"
    views: bool = True
    tukey_only: bool = False
    epochs: int = Field(40, ge=1)
    batch: int = Field(512, ge=1)
    lr: float = Field(0.1, gt=0)
    weight_decay: float = Field(5e-4, ge=0)

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Train the classifier on real and generated features; `record` keeps β's path, (epochs + 1, c)."""
        import torch
        from torch.nn.functional import linear

        from pipeline.device import device
        from pipeline.generation import Plan, Source, balanced_plan, balanced_size
        from pipeline.sgd import dtype_of, minimise, to_device

        stage_one = train.stage_one("afg")
        weight, bias = (to_device(array).to(dtype_of(train.features)) for array in (stage_one.weight, stage_one.bias))
        student = self.student(weight, bias, seed)
        if self.tukey_only:
            return self.without_generation(student, train, seed)
        is_head = head_classes(train.class_counts, self.head)
        source = Source(train, is_head, self.power, self.support, self.gamma, self.dispersion, stage_one.transform, self.views)
        heads = to_device(is_head)
        judge, selected_on = judges(train, val, ~is_head)
        moves = ~is_head & (judge.class_counts > 0) & self.adaptive
        path = [np.full(train.classes, self.beta)]
        rng, generator = np.random.default_rng(seed), torch.Generator(device()).manual_seed(seed)
        size = len(train.labels) if self.per_epoch == "real" else balanced_size(train.labels)
        per_chunk = max(NUMBERS // train.dim // self.batch, 1) * self.batch
        room = torch.empty(min(per_chunk, size), train.dim, dtype=weight.dtype, device=device())

        def losses() -> Iterator[torch.Tensor]:
            before = goodness(student, judge, self.signal, stage_one.transform)
            for epoch in range(self.epochs):
                alpha = self.s * (self.c ** (epoch / self.epochs) - 1)
                plan, beta = balanced_plan(train.labels, rng, size), to_device(path[-1])
                for start in range(0, size, per_chunk):
                    chunk = Plan(*(column[start : start + per_chunk] for column in plan))
                    features, labels = source.generate(chunk, beta, generator, room), to_device(chunk.labels)
                    for x, y in zip(features.split(self.batch), labels.split(self.batch), strict=True):
                        taught = linear(x, weight, bias)
                        logits = student.learned[0] * taught if self.classifier == "lws" else student(x)  # LWS scales the same product
                        yield self.loss(logits, taught, y, heads, alpha)
                after = goodness(student, judge, self.signal, stage_one.transform)
                path.append(np.where(moves, moved(path[-1], before, after), path[-1]))
                before = after
                tail = "" if is_head.all() else f", β {path[-1][~is_head].mean():.2f} on average over the tail"
                say(f"afg: epoch {epoch + 1}/{self.epochs}: α {alpha:.2f}{tail}")

        minimise(student.learned, losses(), self.epochs * -(-size // self.batch), self.lr, self.weight_decay, "afg")
        record = {"beta": np.round(path, 4).tolist(), "selected_on": selected_on if moves.any() else "nothing"}
        return Classifier.linear(*student.layer(), transform=stage_one.transform, absent=train.absent, record=record)

    def student(self, weight: torch.Tensor, bias: torch.Tensor, seed: int) -> Layer | Scales:
        """What learns, from stage one's weight (c, d) and bias (c,)."""
        from pipeline.sgd import new_linear
        from pipeline.students import Layer, Scales

        return Scales(weight, bias) if self.classifier == "lws" else Layer(*new_linear(*weight.shape, seed, weight.dtype))

    def without_generation(self, student: Layer | Scales, train: Features, seed: int) -> Classifier:
        """The ablation: the same classifier, trained on class-balanced real features in Tukey's space, in which it also predicts."""
        shared = self.model_dump(include={"epochs", "batch", "lr", "weight_decay", "views"})
        transform = replace(train.stage_one("afg").transform, power=self.power)
        Retraining(**shared).learn(student, train, seed, "afg", transform)
        return Classifier.linear(*student.layer(), transform=transform, absent=train.absent)

    def loss(self, logits: torch.Tensor, taught: torch.Tensor, labels: torch.Tensor, heads: torch.Tensor, alpha: float) -> torch.Tensor:
        """Eq. 11, a scalar: cross-entropy over the batch plus α times the distillation of its samples of head classes.

        logits and taught (b, c) are the student's and stage one's, heads (c,) bool.
        """
        from torch.nn.functional import cross_entropy

        loss = cross_entropy(logits, labels)
        which = heads[labels].nonzero()[:, 0] if self.distill and alpha > 0 else labels[:0]
        if len(which):
            student, teacher = ((z.index_select(0, which) / self.temperature).log_softmax(1).flatten() for z in (logits, taught))
            p = teacher.exp()
            loss = loss + alpha * self.temperature**2 / len(which) * (p @ teacher - p @ student)
        return loss


def head_classes(counts: np.ndarray, above: int) -> np.ndarray:
    """Classes of more than `above` samples, (c,) bool; the largest third where that is no class or every class that has samples."""
    chosen, there = counts > above, np.count_nonzero(counts)
    if chosen.sum() in (0, there):
        chosen = np.zeros(len(counts), bool)
        chosen[np.argsort(-counts, kind="stable")[: max(there // 3, 1)]] = True
    return chosen


def goodness(student: Student, judge: Features, signal: str, transform: Transform | None = None) -> np.ndarray:
    """How well each class does, (c,), larger is better: minus its mean loss, or its accuracy (a fraction); 0 without a sample.

    transform : what comes before the student, nothing by default
    """
    import torch
    from torch.nn.functional import cross_entropy

    from pipeline.sgd import to_device

    total, step = np.zeros(judge.classes), max(NUMBERS // max(judge.dim, judge.classes), 1)
    for start in range(0, len(judge.labels), step):
        some = slice(start, start + step)
        features, labels = judge.features[some], to_device(judge.labels[some])
        with torch.no_grad():
            logits = student(to_device(transform(features) if transform else features))
            each = -cross_entropy(logits, labels, reduction="none") if signal == "val_loss" else logits.argmax(1) == labels
        total += np.bincount(labels.cpu(), weights=each.double().cpu(), minlength=judge.classes)
    return total / np.maximum(judge.class_counts, 1)


def moved(beta: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """β of the next epoch: x 1.1 where the class does better than an epoch ago, x 0.9 where worse, within [0, 1]."""
    return np.clip(beta * np.where(after > before, 1.1, np.where(after < before, 0.9, 1.0)), 0, 1)


if __name__ == "__main__":
    main(Head)
