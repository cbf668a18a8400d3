"""How pictures look: for light and dark pages, in colours the colour-blind tell apart (Okabe and Ito 2008), the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pipeline.results import Results

COLOURS = {
    "light": ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b6b6b"],
    "dark": ["#56b4e9", "#ff9248", "#2ecc9b", "#f0a3cc", "#f5c242", "#8fb7ff", "#b5b5b5"],
}
GROUND = {"light": ("#ffffff", "#1f2328", "#d7dbe0"), "dark": ("#15181d", "#e4e7eb", "#3a404a")}  # page, text, lines
DPI = 150
STROKES = ["-", "--", "-.", ":"]


class Missing(Exception):
    """There is nothing to draw a picture from; the text says why, for the page."""


@contextmanager
def theme(name: str) -> Iterator[None]:
    """Draw for a `light` or a `dark` page."""
    page, text, lines = GROUND[name]
    settings = {
        **{f"{kind}.facecolor": page for kind in ("figure", "axes", "savefig", "legend")},
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color", "legend.labelcolor"), text),
        **dict.fromkeys(("axes.edgecolor", "grid.color", "legend.edgecolor"), lines),
        **{
            "axes.prop_cycle": mpl.cycler(color=COLOURS[name]),
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.6,
        },
        **{"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "axes.titlesize": 9.5, "legend.framealpha": 0.9},
        **{"font.family": "DejaVu Sans", "figure.constrained_layout.use": True, "savefig.dpi": DPI, "legend.fontsize": 8},
    }
    with mpl.rc_context({**mpl.rcParamsDefault, "backend": "agg", **settings}):
        yield


def render(draw: Callable[[Results], Figure], found: Results, name: str) -> bytes:
    """A picture as PNG for a `light` or `dark` page; the same bytes for the same results, versions of packages and machine."""
    with theme(name):
        target = io.BytesIO()
        draw(found).savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()


def panels(count: int, columns: int, size: tuple[float, float], **shared: bool) -> tuple[Figure, list[Axes]]:
    """A figure of `count` equal panels of this size (inches), row by row; labels stand at its left and bottom edges only."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(size[0] * columns, 4), size[1] * rows + 0.3))
    axes = figure.subplots(rows, columns, squeeze=False, **shared).ravel()
    for spare in axes[count:]:
        spare.remove()
    for place in range(count):
        if place + columns >= count:  # nothing below it
            axes[place].tick_params(labelbottom=True)
    return figure, list(axes[:count])


def colour(place: int) -> str:
    """The place-th colour of the theme in use."""
    return mpl.rcParams["axes.prop_cycle"].by_key()["color"][place % len(COLOURS["light"])]


def stroke(place: int) -> dict[str, object]:
    """Colour and stroke of the place-th of many lines: 28 that differ, neighbours in both, so that one on the other lets it be seen."""
    return {"color": colour(place), "linestyle": STROKES[place % len(STROKES)]}


def by_size(axes: Axes, found: Results, label: bool = True) -> None:
    """The x axis of classes sorted by training images, with the borders between many, medium and few."""
    counts = found.counts[found.order]
    axes.set_xlim(-0.5, found.classes - 0.5)
    ticks = np.unique(np.linspace(0, found.classes - 1, min(found.classes, 5)).round().astype(int))
    axes.set_xticks(ticks, [f"{counts[k]:,}" for k in ticks])
    axes.grid(axis="x", visible=False)
    start = 0
    for mask in found.groups.values():
        start += int(mask.sum())
        if 0 < start < found.classes:
            axes.axvline(start - 0.5, color=mpl.rcParams["axes.edgecolor"], linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    if label:
        axes.set_xlabel("classes from the largest to the smallest, by training images")


def over_classes(axes: Axes, values: np.ndarray, **look: object) -> None:
    """Values (c,) of sorted classes: a line with points for few classes; for many, faint points and their running mean."""
    window = window_of(len(values))
    at = np.arange(len(values))
    if window == 1:
        axes.plot(at, values, marker="o", markersize=3, **look)
        return
    (drawn,) = axes.plot(at, running_mean(values, window), **look)
    axes.plot(at, values, ".", markersize=2, alpha=0.25, color=drawn.get_color(), zorder=1)


def window_of(classes: int) -> int:
    """Neighbours on each side that a running mean takes in; 1, for few classes, stands for no mean at all."""
    return max(classes // 40, 1)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean (c,) over the `window` neighbours on each side that are not NaN."""
    known = np.isfinite(values).astype(float)
    kernel = np.ones(2 * window + 1)
    total, count = (np.convolve(each, kernel, "same") for each in (np.nan_to_num(values), known))
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
