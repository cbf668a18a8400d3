"""See what happened: `python -m pipeline.report` draws every picture and one page with all of it, from what the last `dvc repro` left.

Writes data/report/NAME.png, for light pages, and data/report/report.html, a single file that needs no network, with every picture for
light and for dark pages. Not a stage: a head's edit stays a matter of seconds. PNG files are the same bytes for the same results.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline import page, provenance, results
from pipeline.files import interruptible, replacing, write_text
from pipeline.pictures import features, heads, training
from pipeline.pictures.style import Missing, render
from pipeline.progress import bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.results import Results

FOLDER = Path("data/report")


class Picture(NamedTuple):
    """A picture's file name, its title and caption on the page, and what draws it."""

    name: str
    title: str
    caption: str
    draw: Callable[[Results], Figure]


PICTURES = (
    Picture("accuracy", "Accuracy by head", "Test accuracy, means over classes; bold is the best of a column.", heads.accuracy),
    Picture(
        "change",
        "Class by class, beside joint",
        "What each head gives and takes: change in test accuracy from stage one's own classifier. Dashed lines part many, medium and few.",
        heads.change,
    ),
    Picture("norms", "Weight norms", "Norm of each class's weights, of its head's mean (Kang et al. 2020, figure 2, left).", heads.norms),
    Picture(
        "tau",
        "Accuracy by τ",
        "τ-normalisation on images that are not the test set (Kang et al. 2020, figure 2, right); the dot is the best mean over classes.",
        heads.tau,
    ),
    Picture(
        "beta",
        "β by class",
        "How much AFG borrows for each class, epoch by epoch: β falls where generated features made a class worse.",
        heads.beta,
    ),
    Picture(
        "reliability",
        "Reliability",
        "How often a head is right when it is so confident; fuller colour means more images. ECE in percent, over all test images.",
        heads.reliability,
    ),
    Picture("confusion", "Confusion", "Where the test images of each class go, classes sorted by size, in percent.", heads.confusion),
    Picture(
        "deviation",
        "Feature deviation",
        "Distance between mean training and mean test feature (MFW, figure 7). The band is what chance gives to a class whose training "
        "images are drawn like its test images: a class within it is not deviated.",
        features.deviation,
    ),
    Picture("tsne", "Features of a few classes", "Largest, middle and smallest classes by t-SNE (GLAG, figure 4).", features.tsne),
    Picture("curve", "Training", "Stage one's loss (augmented and mixed images) and accuracy (clean images).", training.curve),
    Picture("progress", "Training progress", "Accuracy on training images by class size (MFW, figures 1a and 3).", training.progress),
    Picture("ratio", "Classification ratio", "How often a class is predicted, for each of its images (MFW, figure 1b).", training.ratio),
    Picture("gradients", "Gradient norms", "How hard the loss still pulls at features, by class size (MFW, figure 4).", training.gradients),
)


@interruptible("report: stopped; run it again")
def main() -> None:
    argparse.ArgumentParser("python -m pipeline.report", description=__doc__.partition("\n")[0]).parse_args()
    found = results.read()
    drawn, missing = [], []
    for picture in bar(PICTURES, "report", "picture"):
        try:
            light, dark = (render(picture.draw, found, theme) for theme in ("light", "dark"))
            drawn.append(page.Drawn(picture.name, picture.title, picture.caption, light, dark))
        except Missing as why:
            missing.append((picture, str(why)))
    for each in drawn:
        with replacing(FOLDER / f"{each.name}.png") as temporary:
            temporary.write_bytes(each.light)
    for picture, _ in missing:
        (FOLDER / f"{picture.name}.png").unlink(missing_ok=True)  # of an earlier report, and no longer true
    target = FOLDER / "report.html"
    write_text(target, page.html(found, drawn, [(picture.title, why) for picture, why in missing], provenance.read(found)))
    for picture, why in missing:
        print(f"report: no picture {picture.name}: {why}")
    print(f"report: {found.title}, {len(found.figures)} heads, {len(drawn)} pictures -> {target}")


if __name__ == "__main__":
    main()
