"""No mixing: each image alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch


class Mixing(Params):
    """No parameters."""

    def build(self, class_counts: torch.Tensor) -> Callable[[torch.Tensor, np.random.Generator], None]:
        """A function of labels (b,) and a generator that mixes nothing."""
        return lambda labels, generator: None
