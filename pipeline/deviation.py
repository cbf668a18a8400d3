"""Stage `deviation`: how far each class's training features lie from its test features (MFW, section 5.4 and Fig. 7).

Every class is measured with as many training images as the smallest class has, so that the figures compare. Reads test features, and
chooses nothing by them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field
from tqdm import tqdm

from pipeline import features, params
from pipeline.files import interruptible, write_csv, write_json
from pipeline.metrics import feature_deviation

RESULTS = Path("data/results")


class Deviation(params.Params):
    """rounds : subsets drawn of each class (R of the paper, 1000)."""

    rounds: int = Field(1000, ge=1)


@interruptible("deviation: stopped, nothing is written; run it again")
def main() -> None:
    tree = params.read()
    rounds = params.section(tree, "deviation", Deviation).rounds
    splits = features.load(params.features_file(tree), "train", "test")
    train, test = splits["train"], splits["test"]

    counts = train.class_counts
    measured = np.flatnonzero((counts > 0) & (test.class_counts > 0))
    size = int(counts[measured].min())
    generator = np.random.default_rng(0)
    values = [
        feature_deviation(train.features[train.labels == k], test.features[test.labels == k], size, rounds, generator)
        for k in tqdm(measured, "deviation", unit="class", disable=None, leave=False)
    ]
    rows = [{"class": k, "train_images": counts[k], "deviation": f"{value:.6f}"} for k, value in zip(measured, values, strict=True)]
    write_csv(RESULTS / "deviation.csv", rows)
    write_json(RESULTS / "deviation.json", {"deviation": round(float(np.mean(values)), 4)})
    print(f"deviation: {np.mean(values):.3f} on average over {len(measured)} classes, {rounds} draws of {size} images -> {RESULTS}")


if __name__ == "__main__":
    main()
