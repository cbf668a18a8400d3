"""The classifier that stage one trained together with the backbone: the baseline ("Joint" in Kang et al. 2020).

It is handed on as it is, so it alone may also predict a class without training images, which every other head leaves out: an imported
classifier may know it (CLIP's, from its name).
"""

from __future__ import annotations

from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.head import main
from pipeline.params import Params


class Head(Params):
    """No parameters."""

    def fit(self, train: Features, val: Features | None, seed: int) -> Classifier:
        """Hand on stage one's classifier."""
        return train.stage_one("joint")


if __name__ == "__main__":
    main(Head)
