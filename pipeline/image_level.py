"""cRT and LWS over images, as Kang et al. 2020's code trains them: what cached features replace, made for comparison.

The backbone's weights are frozen, but its BatchNorm is in training mode: it normalises with the statistics of each class-balanced,
freshly augmented batch, and its running statistics drift to those, with which test images pass in the end. Every epoch computes all
features anew.

Run by hand in a folder where stage one is done: `python -m pipeline.image_level crt` takes the parameters of heads.crt and adds its
figures and seconds to data/image_level.json.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline import backbone, evaluate, images, judging, metrics, outcomes, params
from pipeline.classifier import Classifier
from pipeline.features import Features
from pipeline.files import InputError, interruptible, read_json, write_json
from pipeline.retraining import Retraining
from pipeline.sampling import epoch_order

if TYPE_CHECKING:
    import torch

    from pipeline.images import ImageSet
    from pipeline.network import Network
    from pipeline.students import Layer, Scales

FILE = Path("data/image_level.json")
READS = ("evaluate.many", "evaluate.few")  # the parameters of that section that matter here
KINDS = ("crt", "lws")
FOLLOWED = {"epochs", "batch", "lr", "weight_decay", "views"}  # of a head's parameters; views are drawn anew in any case


@interruptible("image_level: stopped, nothing is written; run it again")
def main() -> None:
    tree, name = params.read(), sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in KINDS or name not in params.head_names(tree) or tree["heads"][name].get("kind") != name:
        raise InputError(f"image_level: name a head of params.yaml that is called as its kind: {' or '.join(KINDS)}")
    head = params.section(tree, f"heads.{name}", params.method("heads", name, f"heads.{name}.kind").Head, without=("kind",))
    for key, value in head.model_dump(exclude=FOLLOWED, exclude_defaults=True).items():
        raise InputError(f"params.yaml: heads.{name}.{key}: over images only its default is known, got {value!r}")
    data, seed, chosen = images.load(), params.seed(tree, "heads"), evaluate.read_params(tree)
    network = backbone.load(data.channels, data.classes)
    if network.cosine_scale is not None:
        raise InputError("image_level: stage one has a cosine classifier (LDAM), which the reference code does not retrain")
    start = time.perf_counter()
    student = fit(name, head, data, network, params.at(tree, "train.augment"), seed)
    seconds = time.perf_counter() - start
    classifier = Classifier.linear(*student.layer())
    test = Features(features(network, data), data.test.labels, data.classes)
    members = metrics.groups(data.class_counts, chosen.many, chosen.few)
    result = judging.judge(outcomes.of_head(classifier, test), [classifier], test, data.class_counts, members, [])
    known = read_json(FILE, "remove it, and run this again") if FILE.exists() else {}
    write_json(FILE, {**known, name: {**result.figures, "seconds": round(seconds, 3)}})
    accuracy = f"{result.figures['all']} % over all classes"
    print(f"image_level: {data.about}: {name}, {head.epochs} epochs in {seconds:.1f} s, {accuracy} -> {FILE}")


def fit(name: str, head: Retraining, data: ImageSet, network: Network, augmentation: str, seed: int) -> Layer | Scales:
    """Train a new layer (cRT) or the factors of stage one's (LWS) on features that each step computes; `network` drifts."""
    import torch

    from pipeline import augment, students
    from pipeline.device import device
    from pipeline.feed import Feed
    from pipeline.sgd import minimise, new_linear
    from pipeline.stage_one import batches

    network.to(device(), memory_format=torch.channels_last).requires_grad_(False)
    if name == "crt":
        student = students.Layer(*new_linear(data.classes, network.classifier.in_features, seed))
    else:
        student = students.Scales(network.classifier.weight, network.classifier.bias)
    feed = Feed(data, getattr(augment, augmentation), device())
    order = epoch_order("class_balanced", data.train.labels, head.epochs, seed)

    def losses() -> Iterator[torch.Tensor]:
        network.train()
        for epoch in range(head.epochs):
            for pixels, labels in feed.epoch(batches(order(epoch), head.batch), np.random.default_rng([seed, epoch, 8])):
                with torch.no_grad():
                    x = network.features(pixels).float()
                yield torch.nn.functional.cross_entropy(student(x), labels)

    steps = head.epochs * len(batches(order(0), head.batch))
    minimise(student.learned, losses(), steps, head.lr, head.weight_decay, f"image_level {name}")
    return student


def features(network: Network, data: ImageSet) -> np.ndarray:
    """Features (n, d) of the test images under the statistics that the network has now."""
    import torch

    from pipeline.inference import feature_blocks

    return torch.cat(list(feature_blocks(network, data.test, data, 256))).cpu().numpy()


if __name__ == "__main__":
    main()
