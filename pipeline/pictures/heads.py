"""Stage two: what each head does with many-, medium- and few-shot classes."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipeline import metrics
from pipeline.classifier import Classifier
from pipeline.pictures.style import Missing, by_size, colour, over_classes, panels, stroke, window_of
from pipeline.search import GRID, judges, peak, tries

if TYPE_CHECKING:
    from pipeline.results import Results

MOST_CLASSES = 100  # whose confusion can be seen


def accuracy(found: Results) -> Figure:
    """Test accuracy of every head by split: a panel a split, a bar a head."""
    names, splits = list(found.figures), [*metrics.GROUPS, "all"]
    figure, axes = panels(len(splits), 4, (1.9 if len(names) < 12 else 2.2, max(0.26 * len(names), 1.6)), sharey=True)
    places = np.arange(len(names))
    for place, (split, axis) in enumerate(zip(splits, axes, strict=True)):
        values = [found.figures[name][split] for name in names]
        best = max((value for value in values if value is not None), default=None)
        axis.barh(places, [value or 0 for value in values], color=colour(place), height=0.72)
        for at, value in zip(places, values, strict=True):
            text, weight = "–" if value is None else f"{value:.1f}", "bold" if value is not None and value == best else "normal"
            axis.text((value or 0) + 2, at, text, va="center", fontsize=8, weight=weight)
        axis.set(title=f"{split} ({int(found.groups[split].sum()) if split in found.groups else found.classes} classes)", xlim=(0, 122))
        axis.set_xticks([0, 50, 100])
        axis.set_yticks(places, names)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="y", visible=False)
    axes[0].invert_yaxis()
    figure.supxlabel("test accuracy (percent, mean over classes)", fontsize=9)
    return figure


def change(found: Results) -> Figure:
    """Test accuracy of each class beside that of `joint`: a panel a head, classes sorted by size."""
    others = [name for name in found.figures if name != "joint"]
    if "joint" not in found.figures or not others:
        raise Missing("it needs a head named joint and another one")
    figure, axes = panels(len(others), 3, (2.9, 1.9), sharex=True, sharey=True)
    window = window_of(found.classes)
    for place, (name, axis) in enumerate(zip(others, axes, strict=True)):
        difference = (found.accuracies[name] - found.accuracies["joint"])[found.order]
        axis.axhline(0, color=mpl.rcParams["text.color"], linewidth=0.8)
        if window == 1:
            axis.bar(np.arange(found.classes), np.nan_to_num(difference), color=np.where(difference < 0, colour(1), colour(0)))
        else:
            over_classes(axis, difference, color=colour(0))
        by_size(axis, found, label=False)
        mean = np.nanmean(difference)
        axis.set_title(f"{name}: {mean:+.1f} on average")
        if place % 3 == 0:
            axis.set_ylabel("change (points)")
    figure.supxlabel("classes from the largest to the smallest, by training images", fontsize=9)
    return figure


def norms(found: Results) -> Figure:
    """Norm of each class's weights, of the mean norm of its head, classes sorted by size (Kang et al. 2020, figure 2, left)."""
    columns = 1 + len(found.norms) // 14  # of the legend
    figure = Figure(figsize=(5.2 + 1.3 * columns, 3.6))
    axes = figure.subplots()
    for place, (name, values) in enumerate(found.norms.items()):
        if values.any():
            over_classes(axes, (values / values.mean())[found.order], label=name, **stroke(place))
    by_size(axes, found)
    axes.set_ylabel("weight norm / mean over classes")
    axes.set_ylim(0, None)
    axes.legend(ncols=columns, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handlelength=3.2)
    return figure


def tau(found: Results) -> Figure:
    """Accuracy under τ-normalisation by τ, on the images that may choose it (Kang et al. 2020, figure 2, right)."""
    accuracies, split = by_tau(found)
    figure = Figure(figsize=(5.6, 3.4))
    axes = figure.subplots()
    judged = np.isfinite(accuracies).all(0)
    for name, mask in found.groups.items():
        if (mask & judged).any():
            axes.plot(GRID, accuracies[:, mask & judged].mean(1), label=name)
    everything = accuracies[:, judged].mean(1)
    axes.plot(GRID, everything, color=mpl.rcParams["text.color"], linewidth=2.2, label="all")
    best = peak(everything / 100)
    axes.plot(GRID[best], everything[best], "o", color=mpl.rcParams["text.color"])
    lowest = min(np.min(line.get_ydata()) for line in axes.lines)
    axes.axvline(GRID[best], color=mpl.rcParams["axes.edgecolor"], linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    right = best < len(GRID) // 2  # of the line, where there is more room
    beside = {"textcoords": "offset points", "xytext": (5 if right else -5, 0), "ha": "left" if right else "right"}
    axes.annotate(f"τ = {GRID[best]:g}", (GRID[best], 0.04), xycoords=axes.get_xaxis_transform(), **beside)
    axes.set(title=f"on {split} images", xlabel="τ", ylabel="accuracy (percent)", ylim=(max(lowest - 8, -1), 102), xlim=(GRID[0], GRID[-1]))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


@cache
def by_tau(found: Results) -> tuple[np.ndarray, str]:
    """Accuracies (t, c), percent, of τ-normalised weights by τ, and the split that they are of, never the test set; NaN: not judged."""
    train = found.features["train"]
    if train.classifier is None:
        raise Missing("these features have no classifier of stage one")
    judge, split = judges(train, found.features["val"])
    stage_one = train.classifier
    plain = Classifier.linear(stage_one.weight, np.zeros(found.classes), transform=stage_one.transform, absent=train.absent)
    factors = np.maximum(stage_one.norms.astype(float), 1e-12) ** -GRID[:, None]  # (t, c)
    names = {"val": "validation", "train": "training", "val + train": "validation (and training)"}
    return 100 * tries(judge, plain, np.multiply, factors), names[split]


def reliability(found: Results) -> Figure:
    """Accuracy by confidence, in 15 bins (Guo et al. 2017): a panel a head; on the diagonal a head is as often right as it says."""
    figure, axes = panels(len(found.outcomes), 4, (2.1, 2.1), sharex=True, sharey=True)
    for axis, (name, said) in zip(axes, found.outcomes.items(), strict=True):
        bins = metrics.reliability(said.confidence, said.rank == 0)
        edges = np.arange(metrics.BINS) / metrics.BINS
        shade = np.clip(bins.share / bins.share.max(), 0.12, 1)
        tints = [mpl.colors.to_rgba(colour(0), alpha) for alpha in shade]
        axis.bar(edges, 100 * np.nan_to_num(bins.accuracy), 1 / metrics.BINS, align="edge", color=tints, linewidth=0)
        axis.plot([0, 1], [0, 100], color=mpl.rcParams["text.color"], linewidth=1, linestyle="--")
        axis.set(title=f"{name}: ECE {found.figures[name]['ece']['all']:.1f}", xlim=(0, 1), ylim=(0, 100), xticks=[0, 0.5, 1])
        axis.set_xticklabels(["0", "50", "100"])
    figure.supxlabel("confidence (percent)", fontsize=9)
    figure.supylabel("accuracy (percent)", fontsize=9)
    return figure


def confusion(found: Results) -> Figure:
    """Where test images of a class go, a panel a head: rows are true classes, columns predicted ones, sorted by size."""
    if found.classes > MOST_CLASSES:
        raise Missing(f"there are more than {MOST_CLASSES} classes")
    place = np.empty(found.classes, int)
    place[found.order] = np.arange(found.classes)
    figure, axes = panels(len(found.outcomes), 4, (2.1, 2.2), sharex=True, sharey=True)
    for axis, (name, said) in zip(axes, found.outcomes.items(), strict=True):
        table = np.zeros((found.classes, found.classes))
        np.add.at(table, (place[found.labels], place[said.predicted]), 1)
        shares = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
        image = axis.imshow(np.sqrt(shares), cmap="cividis", vmin=0, vmax=10, interpolation="nearest")
        axis.set_title(name)
        axis.grid(visible=False)
        ends = [0, found.classes - 1]
        sizes = [f"{found.counts[found.order][k]:,}" for k in ends]
        axis.set_xticks(ends, sizes)
        axis.set_yticks(ends, sizes)
    bar = figure.colorbar(image, ax=axes, ticks=np.sqrt([0, 5, 25, 50, 100]), shrink=0.6, label="share of the class's images (percent)")
    bar.ax.set_yticklabels(["0", "5", "25", "50", "100"])
    figure.supxlabel("predicted class, by training images", fontsize=9)
    figure.supylabel("true class, by training images", fontsize=9)
    return figure


def beta(found: Results) -> Figure:
    """β of each class along AFG's generation epochs, classes sorted by size: a panel a head of that kind."""
    paths = {name: np.array(head.record["beta"]) for name, head in found.heads.items() if "beta" in head.record}
    if not paths:
        raise Missing("no head of kind afg")
    figure, axes = panels(len(paths), 2, (4.8, 3.2), sharey=True)
    for axis, (name, path) in zip(axes, paths.items(), strict=True):
        image = axis.imshow(path[:, found.order].T, aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        axis.set(title=name, xlabel="generation epoch")
        ticks = np.unique(np.linspace(0, found.classes - 1, min(found.classes, 6)).round().astype(int))
        axis.set_yticks(ticks, [f"{found.counts[found.order][k]:,}" for k in ticks])
        axis.grid(visible=False)
    axes[0].set_ylabel("classes, by training images")
    figure.colorbar(image, ax=axes, label="β: share borrowed from larger classes")
    return figure
