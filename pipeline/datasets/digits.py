"""Handwritten digits, bundled with scikit-learn: 1,797 real grey images of 8 x 8 pixels in 10 classes; no download.

The default data set: small enough for a whole run in under a minute. From the UCI "Optical Recognition of Handwritten Digits" test set
(Alpaydin and Kaynak 1998). It has no split of its own, so a balanced test set is set aside here first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from pipeline.longtail import take_each
from pipeline.params import Params
from pipeline.raw import RawData, RawSplit


class Dataset(Params):
    """test_per_class : images of each class set aside for testing (174 to 183 are there)."""

    test_per_class: int = Field(50, ge=1, le=150)

    def read(self, root: Path, seed: int) -> RawData:
        """Load the digits; `root` is not used, `seed` chooses the test images."""
        from sklearn.datasets import load_digits

        raw = load_digits()
        images = np.round(raw.images * (255 / 16)).astype(np.uint8)[..., None]  # (n, 8, 8, 1); the raw scale is 0..16
        order = np.random.default_rng([seed, 1]).permutation(len(images))
        test = np.sort(take_each(raw.target, order, self.test_per_class))
        train = np.setdiff1d(order, test)
        return RawData(
            train=RawSplit.of_arrays(images[train], raw.target[train], train),
            test=RawSplit.of_arrays(images[test], raw.target[test], test),
            val=None,
            names=[str(digit) for digit in range(10)],
            image_size=8,
        )
