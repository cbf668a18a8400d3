"""The whole cRT stage on cached features, from process start to artefact, beside what it replaces: epochs over images.

The images pass a frozen ResNet-32 as in Kang et al.'s code: batch 512, crop and flip by a loader's workers, BatchNorm in training mode,
float32, and the 10,000 images of a validation set after every epoch. One such epoch is timed and counted ten times.

What is asserted is processor time. Of the stage's seconds of wall time most are `import torch` on one processor, which work beside it
may double; epochs over images last minutes on all processors and hardly notice. That import alone took 3 s on one machine and 6 s on
another; the bound leaves room for it.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pipeline import extract, params, sampling, stage_one
from tests.benchmarks.timing import chosen, report, wall_and_processors
from tests.conftest import edit, stage

BATCH, VALIDATION = 512, 10_000


class Pictures(Dataset):
    """Images as Pillow pictures, transformed."""

    def __init__(self, split, transform, rows):
        self.split, self.transform, self.rows = split, transform, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        row = self.rows[place]
        return self.transform(Image.fromarray(self.split.images[row])), int(self.split.labels[row])


def an_epoch_over_images(data, network):
    """A function that passes class-balanced training images and then the validation images."""
    to_input = [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    crop_and_flip = transforms.Compose([transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip(), *to_input])
    rows = sampling.class_balanced(data.train.labels, 0, len(data.train.labels), 0)
    train = DataLoader(Pictures(data.train, crop_and_flip, rows), BATCH, num_workers=2, drop_last=True)
    val = DataLoader(Pictures(data.train, transforms.Compose(to_input), np.arange(VALIDATION)), BATCH, num_workers=2)
    classifier = torch.nn.Linear(64, data.classes)
    optimiser = torch.optim.SGD(classifier.parameters(), 0.2, momentum=0.9, weight_decay=5e-4)

    def epoch():
        network.train()
        for x, y in train:
            with torch.no_grad():
                features = network.features(x)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(classifier(features), y).backward()
            optimiser.step()
        network.eval()
        with torch.no_grad():
            for x, _ in val:
                classifier(network.features(x))

    return epoch


@pytest.mark.slow
def test_crt_on_cached_features_is_far_faster_than_epochs_over_images(data, workspace):
    network = stage_one.new_network(chosen(), data, 0)
    extraction = wall_and_processors(lambda: extract.write(extract.FILE, network, data, extract.read_params(params.read())))
    count = len(data.train.labels) + len(data.test.labels)
    edit("params.yaml", "crt: {kind: crt, epochs: 10, lr: 0.05, batch: 32,", f"crt: {{kind: crt, epochs: 10, lr: 0.2, batch: {BATCH},")
    mine = min((wall_and_processors(lambda: stage("heads.crt", "crt")) for _ in range(3)), key=sum)
    theirs = 10 * wall_and_processors(an_epoch_over_images(data, network))
    row("the `crt` stage, ten epochs, process start included", mine, "ten epochs over images, validation included", theirs, "≥ 50")
    row(f"the same and the extraction of {count:,} images", mine + extraction, "the same", theirs, "–")
    assert theirs[1] / mine[1] >= 50


def row(what, mine, other, theirs, bound):
    """Keep a row with both times; the bound is for processor time."""
    spent = "{:,.1f} s, {:,.1f} s of processors"
    ratios = "{:.0f}, processors {:.0f}".format(*theirs / mine)
    report(what, spent.format(*mine), f"{other}: {spent.format(*theirs)}", ratios, bound)
