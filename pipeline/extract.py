"""Stage `extract`: the features of every image under the frozen backbone, with stage one's classifier beside them (data/features.h5).

Evaluation mode (BatchNorm with its running statistics), centre of the image, no augmentation, computed in float32. Options add features of
augmented training images and those before the last ReLU. Images are read and features written a batch at a time, so memory does not grow
with the data set.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
from pydantic import Field

from pipeline import backbone, images, params, progress
from pipeline.features import FILE, SCHEMA
from pipeline.files import InputError, attributes_of, interruptible, note_time, replacing, takes_no_arguments

if TYPE_CHECKING:
    import torch

    from pipeline.images import ImageSet
    from pipeline.network import Network

LONG = 10.0  # seconds, after which a log gets a line of a pass over images

Augmentation = Literal["none", "shift", "plain", "large", "autoaugment"]


class Extract(params.Params):
    """The `extract` section.

    batch : images a step; on two CPU cores 64 runs ResNet-32 fastest, and 512, whose activations leave the cache, at half the rate
    views : how many augmented versions of each training image get features as well; each costs a pass over the training set
    augment : a function of pipeline/augment.py, for views and recalibration; None: that of stage one, `train.augment`
    recalibrate : whether to re-estimate BatchNorm's statistics on class-balanced batches first (pipeline/views.py)
    dtype : how features are stored; `float16` takes half the space, keeps 11 bits of each number and ends at 65,504
    pre_relu : whether features before the backbone's last ReLU are stored as well, for a cosine classifier (Kang et al. 2020, table 12)
    """

    batch: int = Field(64, ge=1)
    views: int = Field(0, ge=0)
    augment: Augmentation | None = None
    recalibrate: bool = False
    dtype: Literal["float32", "float16"] = "float32"
    pre_relu: bool = False

    @property
    def augments(self) -> bool:
        """Whether any image is augmented."""
        return self.views > 0 or self.recalibrate


class StageOne(params.Params, extra="ignore"):
    """What of the `train` section this stage takes over."""

    augment: Augmentation


@interruptible("extract: stopped, nothing is written; run it again")
def main() -> None:
    extract = read_params(params.read())
    data = images.load()
    check_images(extract, data)
    network = backbone.load(data.channels, data.classes)
    from pipeline.device import device

    print(f"extract: {data.about} on {device()}", flush=True)
    start = time.perf_counter()
    write(FILE, network, data, extract)
    seconds = time.perf_counter() - start
    count = sum(len(split.labels) for split in (data.train, data.val, data.test) if split is not None)
    count += extract.views * len(data.train.labels)
    note_time("extract", FILE, seconds, count)
    print(f"extract: {count:,} images in {seconds:.1f} s ({count / seconds:,.0f} images/s) -> {FILE}")


def read_params(tree: dict[str, Any]) -> Extract:
    """Check the section `extract`, and fill in stage one's augmentation where it names none.

    Raises
    ------
    InputError
        If something is wrong there or with `train.augment`, or if views are asked for that would all be the same.
    """
    extract = params.section(tree, "extract", Extract)
    if extract.augment is None:
        extract = extract.model_copy(update={"augment": params.section(tree, "train", StageOne).augment})
    if extract.views and extract.augment == "none":
        raise InputError(
            f"params.yaml: extract.views: without augmentation, all {extract.views} would be the same; set it to 0, or set extract.augment"
        )
    return extract


def check_images(extract: Extract, data: ImageSet) -> None:
    """Refuse images that cannot be augmented in this way."""
    if extract.augments and extract.augment == "autoaugment" and data.channels != 3:
        raise InputError(
            "params.yaml: extract.augment: 'autoaugment' is a policy for colour images, and these are grey; try 'shift' or 'plain'"
        )


def write(path: Path, network: Network, data: ImageSet, extract: Extract) -> None:
    """Write features.h5: splits in the order train, val, test, then the classifier. `extract` as `read_params` gives it.

    With `recalibrate`, the network keeps the new statistics.
    """
    import torch

    from pipeline import augment
    from pipeline.device import arithmetic, device
    from pipeline.feed import Feed
    from pipeline.inference import before_last_relu, feature_blocks
    from pipeline.views import recalibrate, view_blocks

    place = device()
    arithmetic(place, repeatable=True)
    network = network.to(place, memory_format=torch.channels_last)
    feed = Feed(data, getattr(augment, extract.augment), place, together=1) if extract.augments else None  # a GPU draws what a CPU does
    if extract.recalibrate:
        recalibrate(network, feed)
    dim = network.classifier.in_features
    with replacing(path) as temporary, h5py.File(temporary, "w", **attributes_of(data.classes)) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["dim"] = dim
        file.attrs["classes"] = data.classes
        file.attrs["class_counts"] = data.class_counts
        for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
            if split is None:
                continue
            kinds = ["features", "pre_relu"] if extract.pre_relu else ["features"]
            into = [file.create_dataset(f"{name}/{kind}", (len(split.labels), dim), extract.dtype) for kind in kinds]
            with before_last_relu(network) if extract.pre_relu else nullcontext([]) as latest:
                fill(into, ([block, *latest] for block in feature_blocks(network, split, data, extract.batch)), name)
            file[f"{name}/labels"] = split.labels
            if name == "train" and extract.views:
                views = file.create_dataset("train/views", (extract.views, len(split.labels), dim), extract.dtype)
                for view in range(extract.views):
                    blocks = ([block] for block in view_blocks(network, feed, view, extract.batch))
                    fill([views], blocks, f"train view {view + 1}/{extract.views}", (view,))
        cosine = network.cosine_scale is not None
        # A group that HDF5 makes on the way to `classifier/weight` notes the time where there are many classes. One made by name does not,
        # and made behind the weights it leaves a file of few classes as it always was.
        weight = file.create_dataset(None, data=network.classifier.weight.detach().cpu().numpy())
        group = file.create_group("classifier")
        group["weight"] = weight
        group["bias"] = np.zeros(data.classes, "f4") if cosine else network.classifier.bias.detach().cpu().numpy()
        group.attrs["normalise"] = cosine
        group.attrs["scale"] = network.cosine_scale if cosine else 1.0


def fill(into: list[h5py.Dataset], blocks: Iterable[list[torch.Tensor]], what: str, at: tuple[int, ...] = ()) -> None:
    """Write blocks of rows one below the other, each block with a tensor (b, d) for each data set (…, n, d); `at` are indices before n.

    A log gets a line of what took long.
    """
    done, start = 0, time.perf_counter()
    with progress.bar(None, f"extract {what}", "img", into[0].shape[-2]) as bar:
        for block in blocks:
            for dataset, rows in zip(into, block, strict=True):
                dataset[(*at, slice(done, done + len(rows)))] = finite(rows.cpu().numpy(), dataset.dtype, what, done)
            done += len(block[0])
            bar.update(len(block[0]))
    seconds = time.perf_counter() - start
    if seconds > LONG:
        progress.say(f"extract: {what}: {done:,} images in {seconds:,.0f} s")


def finite(block: np.ndarray, dtype: np.dtype, what: str, start: int) -> np.ndarray:
    """The block in the type that it is stored in; an error where it holds NaN or infinity, which no head could use."""
    with np.errstate(over="ignore"):
        stored = block.astype(dtype, copy=False)
    if not np.isfinite(stored).all():
        if np.isfinite(block).all():
            raise InputError(
                f"params.yaml: extract.dtype: {dtype} ends at {np.finfo(dtype).max:,.0f}, and features of {what} images from {start} go "
                "beyond; set it to float32"
            )
        raise InputError(
            f"{backbone.FILE}: gives NaN or infinite features for {what} images from {start}: stage one diverged; lower train.lr"
        )
    return stored


if __name__ == "__main__":
    takes_no_arguments(__doc__)
    main()
