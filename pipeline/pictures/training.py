"""Stage one: how far training has come with the largest and the smallest classes (MFW, figures 1, 3 and 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from pipeline import extract, params
from pipeline.pictures.style import Missing, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pipeline.results import Results, Training


def curve(found: Results) -> Figure:
    """Loss, and accuracy on training and validation images, by epoch."""
    training = _training(found)
    figure = Figure(figsize=(7.6, 2.9))
    loss, accuracy = figure.subplots(1, 2)
    epochs = training.curve["epoch"]
    loss.plot(epochs, training.curve["loss"])
    loss.set(xlabel="epoch", ylabel="loss (nats)", ylim=(0, None))
    for key, label in (("train_accuracy", "training images, by image"), ("val_accuracy", "validation images")):
        if np.isfinite(training.curve[key]).any():
            accuracy.plot(epochs, training.curve[key], label=label)
    accuracy.set(xlabel="epoch", ylabel="accuracy (percent)", ylim=(0, 102))
    accuracy.legend(loc="lower right")
    return figure


def progress(found: Results) -> Figure:
    """Training accuracy of the largest and the smallest classes by epoch (MFW, figures 1a and 3)."""
    figure, axes = _extremes(found, "accuracy")
    axes.set(ylabel="accuracy on training images (percent)", ylim=(0, 102))
    axes.legend(loc="lower right")
    return figure


def ratio(found: Results) -> Figure:
    """Images classified into a class for each image of it, by epoch (MFW, figure 1b); 1 is fair."""
    figure, axes = _extremes(found, "classification_ratio")
    axes.axhline(1, color=colour(6), linewidth=1, linestyle=":")
    axes.set(ylabel="images classified into the class / its images", ylim=(0, None))
    axes.legend(loc="best")
    return figure


def gradients(found: Results) -> Figure:
    """Norm of the loss's gradient by the features behind MFW's group, by epoch (MFW, figure 4)."""
    figure, axes = _extremes(found, "gradient_norm")
    axes.set(ylabel="norm of the gradient by the features", ylim=(0, None))
    axes.legend(loc="best")
    return figure


def _extremes(found: Results, key: str) -> tuple[Figure, Axes]:
    """Lines of the largest and the smallest tenth of classes, and of all."""
    training = _training(found)
    figure = Figure(figsize=(5.6, 3.2))
    axes = figure.subplots()
    some = max(found.classes // 10, 1)
    for which, classes in ((f"largest {some}", found.order[:some]), (f"smallest {some}", found.order[-some:])):
        sizes = found.counts[classes]
        of = f"{sizes.min():,}" if sizes.min() == sizes.max() else f"{sizes.min():,} to {sizes.max():,}"
        name = which.removesuffix(" 1") + (" class" if some == 1 else " classes")
        values = training.by_class[key][:, classes].mean(1)
        axes.plot(training.epochs, values, marker="o", markersize=2.5, label=f"{name} ({of} training images)")
    axes.plot(training.epochs, training.by_class[key].mean(1), "--", color=colour(6), label="mean over all classes")
    axes.set_xlabel("epoch")
    return figure, axes


def _training(found: Results) -> Training:
    if found.training is None:
        where = params.features_file(found.tree)
        imported = f"stage one has not run here: {where} is imported"
        raise Missing("data/training.csv or data/training_classes.csv is missing; `dvc pull train`" if where == extract.FILE else imported)
    return found.training
