"""The classifier that stage one trained together with the backbone: the baseline ("Joint" in Kang et al. 2020)."""

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
