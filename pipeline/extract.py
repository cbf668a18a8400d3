"""Stage `extract`: the features of every image under the frozen backbone, with stage one's classifier beside them (data/features.h5).

Evaluation mode (BatchNorm with its running statistics), centre of the image, no augmentation, float32. Images are read and features written
a batch at a time, so memory does not grow with the data set.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from pydantic import Field

from pipeline import backbone, images, params
from pipeline.features import SCHEMA
from pipeline.files import InputError, interruptible, note_time, replacing

if TYPE_CHECKING:
    from pipeline.images import ImageSet
    from pipeline.network import Network

FILE = Path("data/features.h5")


class Extract(params.Params):
    """batch : images a step; on two CPU cores 64 runs ResNet-32 fastest, and 512, whose activations leave the cache, at half the rate."""

    batch: int = Field(64, ge=1)


@interruptible("extract: stopped, nothing is written; run it again")
def main() -> None:
    extract = params.section(params.read(), "extract", Extract)
    data = images.load()
    network = backbone.load(data.channels, data.classes)
    start = time.perf_counter()
    write(FILE, network, data, extract.batch)
    seconds = time.perf_counter() - start
    count = sum(len(split.labels) for split in (data.train, data.val, data.test) if split is not None)
    note_time("extract", seconds, count)
    print(f"extract: {count:,} images in {seconds:.1f} s ({count / seconds:,.0f} images/s) -> {FILE}")


def write(path: Path, network: Network, data: ImageSet, batch: int) -> None:
    """Write features.h5: splits in the order train, val, test, then the classifier."""
    import torch
    from tqdm import tqdm

    from pipeline.device import device, same_bytes
    from pipeline.inference import feature_blocks

    place = device()
    same_bytes(place, True)
    network = network.to(place, memory_format=torch.channels_last)
    dim = network.classifier.in_features
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["dim"] = dim
        file.attrs["classes"] = data.classes
        file.attrs["class_counts"] = data.class_counts
        for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
            if split is None:
                continue
            features = file.create_dataset(f"{name}/features", (len(split.labels), dim), "f4")
            done = 0
            with tqdm(total=len(split.labels), desc=f"extract {name}", unit="img", disable=None, leave=False) as bar:
                for block in feature_blocks(network, split, data, batch):
                    features[done : done + len(block)] = finite(block.cpu().numpy(), name, done)
                    done += len(block)
                    bar.update(len(block))
            file[f"{name}/labels"] = split.labels
        cosine = network.cosine_scale is not None
        file["classifier/weight"] = network.classifier.weight.detach().cpu().numpy()
        file["classifier/bias"] = np.zeros(data.classes, "f4") if cosine else network.classifier.bias.detach().cpu().numpy()
        file["classifier"].attrs["normalise"] = cosine
        file["classifier"].attrs["scale"] = network.cosine_scale if cosine else 1.0


def finite(block: np.ndarray, split: str, start: int) -> np.ndarray:
    """The block itself; an error where the network gives NaN or infinity, which no head could use."""
    if not np.isfinite(block).all():
        raise InputError(
            f"{backbone.FILE}: gives NaN or infinite features for {split} images from {start}: stage one diverged; lower train.lr"
        )
    return block


if __name__ == "__main__":
    main()
