"""The cached features: how far training and test features of a class lie apart (MFW, figure 7; GLAG, figure 4)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipeline.pictures.style import Missing, by_size, colour

if TYPE_CHECKING:
    from pipeline.results import Results

MOST = 150  # images of a class and split on the map
SEED = 0


def deviation(found: Results) -> Figure:
    """Feature deviation of each class (MFW, figure 7), beside what chance alone would give."""
    if found.deviations is None:
        raise Missing("the stage deviation has not run")
    sorted_by_size = {key: column[found.order] for key, column in found.deviations.items()}
    figure = Figure(figsize=(6.4, 3.4))
    axes, at = figure.subplots(), np.arange(found.classes)
    low, high = sorted_by_size["floor_low"], sorted_by_size["floor_high"]
    axes.fill_between(at, low, high, color=colour(6), alpha=0.3, linewidth=0, step="mid", label="by chance alone (95 %)")
    axes.plot(at, sorted_by_size["floor"], color=colour(6), linestyle="--", linewidth=1, label="by chance alone (mean)")
    above = sorted_by_size["deviation"] > high
    size = 5 if found.classes <= 100 else 2
    for chosen, marker, place, name in ((sorted_by_size["deviation"] <= high, "o", 0, "within chance"), (above, "^", 1, "above chance")):
        values = sorted_by_size["deviation"][chosen]
        axes.plot(at[chosen], values, marker, markersize=size, color=colour(place), label=f"{name} ({chosen.sum()} classes)")
    by_size(axes, found)
    axes.set_ylabel("feature deviation (L2 of unit features)")
    top = np.nanmax([high, sorted_by_size["deviation"]], initial=0.1)
    axes.set_ylim(0, 1.2 * top)  # with room for the legend
    axes.legend(loc="upper left", ncols=2)
    return figure


class Map(NamedTuple):
    """Points (m, 2) of images in the plane, their classes (m,), and which are training images (m,)."""

    points: np.ndarray
    labels: np.ndarray
    train: np.ndarray


def tsne(found: Results) -> Figure:
    """Training and test features of a few classes in the plane, by t-SNE (GLAG, figure 4)."""
    drawn = _map(found)
    figure = Figure(figsize=(6.6, 4.4))
    axes = figure.subplots()
    for place, k in enumerate(_shown(found)):
        of_class, tint = drawn.labels == k, colour(place)
        test, train = drawn.points[of_class & ~drawn.train], drawn.points[of_class & drawn.train]
        axes.scatter(*test.T, s=14, facecolors="none", edgecolors=tint, linewidths=0.7, alpha=0.75)
        axes.scatter(*train.T, s=20, marker="^", color=tint, linewidths=0.4, edgecolors=mpl.rcParams["axes.facecolor"])
        label = f"\u200b{found.names[k]} ({found.counts[k]:,})"  # one that begins with _ would be left out
        axes.plot([], [], "s", color=tint, label=label)
    axes.plot([], [], "^", color=mpl.rcParams["text.color"], label="training image")
    axes.plot([], [], "o", markerfacecolor="none", color=mpl.rcParams["text.color"], label="test image")
    axes.set(xticks=[], yticks=[], xlabel="t-SNE, first direction", ylabel="t-SNE, second direction")
    legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, title="class (training images)")
    for text in legend.get_texts():
        text.set_parse_math(False)  # a class may be called what it likes
    return figure


def _shown(found: Results) -> np.ndarray:
    """Classes of the largest, middle and smallest sizes among those with training images."""
    order = found.order[found.counts[found.order] > 0]
    places = np.arange(len(order))
    chosen = [*places[:2], *places[len(order) // 2 - 1 : len(order) // 2 + 1], *places[-2:]]
    return order[np.unique(chosen)]


@cache
def _map(found: Results) -> Map:
    """t-SNE of unit features, on one thread: sums over several round differently from run to run."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rng, rows, labels, train = np.random.default_rng(SEED), [], [], []
    for name in ("train", "test"):
        split = found.features[name]
        for k in _shown(found):
            members = np.flatnonzero(split.labels == k)
            members = np.sort(rng.permutation(members)[:MOST])
            rows.append(split.features[members])
            labels += [k] * len(members)
            train += [name == "train"] * len(members)
    x = np.concatenate(rows).astype(np.float32)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    if len(x) < 5:
        raise Missing("too few images")
    with threadpool_limits(1):
        points = TSNE(perplexity=min(30, (len(x) - 1) / 3), init="pca", random_state=SEED).fit_transform(x)
    return Map(points, np.array(labels), np.array(train))
