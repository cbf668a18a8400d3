"""The batches that a step takes, whether prepared one by one or many in one call."""

import numpy as np
import pytest
import torch

from pipeline import augment
from pipeline.feed import Feed
from pipeline.images import Images, ImageSet

RNG = np.random.default_rng(0)
TRAIN = Images(RNG.integers(0, 256, (50, 8, 8, 3), np.uint8), RNG.integers(0, 4, 50))
DATA = ImageSet(TRAIN, None, TRAIN, np.full(4, 12), list("abcd"), np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.1]), 8)
BATCHES = np.split(RNG.permutation(50), range(12, 50, 12))  # 12, 12, 12, 12, 2


def epoch(augmentation, together, resident=False):
    feed = Feed(DATA, augmentation, torch.device("cpu"), together)
    if resident:
        feed.pixels = torch.from_numpy(TRAIN.images)
    return list(feed.epoch(BATCHES, np.random.default_rng(3)))


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("together", [None, 5, 12, 30, 1000])
def test_batches_hold_the_images_asked_for_normalised(together, resident):
    found = epoch(augment.none, together, resident)
    assert len(found) == len(BATCHES)
    for (images, labels), rows in zip(found, BATCHES, strict=True):
        expected = (TRAIN.images[rows] / 255.0 - DATA.mean) / DATA.std
        np.testing.assert_allclose(images, expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(labels, TRAIN.labels[rows])


def test_in_one_call_an_epoch_is_augmented_as_one_batch():
    """What a GPU does: the augmentation sees all 50 images at once, and the batches are parts of what it gives."""
    whole = Feed(DATA, augment.plain, torch.device("cpu"))
    ((expected, _),) = whole.epoch([np.concatenate(BATCHES)], np.random.default_rng(3))
    assert torch.equal(torch.cat([images for images, _ in epoch(augment.plain, 1000)]), expected)


def test_one_batch_a_call_draws_what_a_cpu_does():
    """As `extract` asks for, so that a GPU makes the same views."""
    for (images, _), (expected, _) in zip(epoch(augment.plain, 1, resident=True), epoch(augment.plain, None), strict=True):
        assert torch.equal(images, expected)


def test_augmentation_draws_anew_for_each_batch():
    first, second = Feed(DATA, augment.plain, torch.device("cpu")).epoch([BATCHES[0]] * 2, np.random.default_rng(0))
    assert not torch.equal(first[0], second[0])
