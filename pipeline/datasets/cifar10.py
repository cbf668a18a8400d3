"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32 x 32 pixels in 10 classes.

From the official binary layout (`cifar-10-batches-bin/`) or torchvision's files in `data.root`; there is no official validation set.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.params import Params
from pipeline.raw import RawData, read_cifar

NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()


class Dataset(Params):
    """No parameters."""

    def read(self, root: Path, seed: int) -> RawData:
        """Load both splits."""
        batches = [f"data_batch_{i}.bin" for i in range(1, 6)]
        return read_cifar(root, "cifar-10-batches-bin", batches, "test_batch.bin", 1, "CIFAR10", NAMES)
