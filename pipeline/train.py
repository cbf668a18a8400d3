"""Stage `train`: stage one, a backbone and its classifier on the long-tailed images.

pipeline/recipe.py reads what to do, pipeline/stage_one.py does it, this file writes what comes out.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pipeline import backbone, params, recipe
from pipeline.files import interruptible, note_time, takes_no_arguments, write_csv

CURVE = Path("data/training.csv")
CLASSES = Path("data/training_classes.csv")


@interruptible("train: stopped; run it again, and it goes on after its last whole epoch")
def main() -> None:
    tree = params.read()
    chosen, seed = recipe.read(tree), params.seed(tree, "train")

    from pipeline import images

    data = images.load()
    recipe.check_images(chosen.train, data)

    from pipeline import checkpoint, stage_one

    saved = checkpoint.Checkpoint(checkpoint.identity(chosen, seed, images.FILE))
    start = time.perf_counter()
    trained = stage_one.fit(chosen, data, seed, saved)
    seconds = time.perf_counter() - start
    backbone.save(trained.network, chosen.train.backbone["family"], chosen.backbone.model_dump(), data.channels)
    write_rounded(CURVE, trained.curve)
    write_rounded(CLASSES, trained.classes)
    epochs = chosen.train.epochs - saved.resumed
    count = epochs * len(data.train.labels)
    note_time("train", backbone.FILE, seconds, count)
    print(
        f"train: {chosen.train.loss}, mix {chosen.train.mix}, re-weighting {chosen.train.reweight}: {epochs} epochs of "
        f"{len(data.train.labels):,} images in {seconds:.1f} s ({count / seconds:,.0f} images/s) -> {backbone.FILE}, {CURVE}, {CLASSES}"
    )
    saved.remove()  # as the last, so that a rerun of what failed until here trains nothing anew


def write_rounded(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table of numbers, to six digits behind the point; None is an empty cell."""
    write_csv(path, [{key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()} for row in rows])


if __name__ == "__main__":
    takes_no_arguments(__doc__)
    main()
