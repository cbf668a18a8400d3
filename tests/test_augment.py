"""Augmentation against torchvision and by its invariants."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from pipeline import augment, inference


def images(b=64, side=12, channels=3, seed=0):
    return torch.randint(1, 256, (b, side, side, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def windows(image, pad):
    """Every window that a crop after padding may give, by (top, left)."""
    h, w, _ = image.shape
    padded = np.pad(image.numpy(), ((pad, pad), (pad, pad), (0, 0)))
    return {(top, left): padded[top : top + h, left : left + w] for top in range(2 * pad + 1) for left in range(2 * pad + 1)}


@pytest.mark.parametrize(("name", "pad", "flips"), [("shift", 1, False), ("plain", 2, True)])
def test_crops_are_windows_of_the_padded_image(name, pad, flips):
    x = images(400, side=16)
    y = getattr(augment, name)(x, 16, np.random.default_rng(0))
    seen, flipped = set(), 0
    for before, after in zip(x, y.numpy(), strict=True):
        match = [(where, False) for where, w in windows(before, pad).items() if np.array_equal(after, w)]
        match += [(where, True) for where, w in windows(before, pad).items() if np.array_equal(after, w[:, ::-1])]
        assert len(match) == 1
        seen.add(match[0][0])
        flipped += match[0][1]
    assert len(seen) == (2 * pad + 1) ** 2  # every window occurs
    assert flipped == 0 if not flips else 150 < flipped < 250


def test_large_is_a_resized_crop_and_a_flip(monkeypatch):
    boxes, resized_crop = [], reference.resized_crop

    def recorded(image, top, left, height, width, size, interpolation):
        boxes.append((top, left, height, width))
        return resized_crop(image, top, left, height, width, size, interpolation)

    monkeypatch.setattr(reference, "resized_crop", recorded)
    x = images(300, side=40)
    y = augment.large(x, 32, np.random.default_rng(0))
    assert y.shape == (300, 32, 32, 3)
    for before, after, (top, left, height, width) in zip(x, y, boxes, strict=True):
        assert top >= 0 and left >= 0 and top + height <= 40 and left + width <= 40
        expected = resized_crop(before.permute(2, 0, 1), top, left, height, width, [32, 32], antialias=True).permute(1, 2, 0)
        assert torch.equal(after, expected) or torch.equal(after, expected.flip(1))
    areas = np.array([height * width / 1600 for _, _, height, width in boxes])
    assert 0.07 < areas.min() < 0.15 and areas.max() > 0.9


def test_none_is_the_centre():
    x = images(side=12)
    assert torch.equal(augment.none(x, 8, np.random.default_rng(0)), x[:, 2:10, 2:10])


def test_normalise_is_torchvisions():
    x, mean, std = images(), torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    y = inference.normalise(x, mean, std)
    scaled = reference.to_dtype(x.permute(0, 3, 1, 2), torch.float32, scale=True)
    torch.testing.assert_close(y, reference.normalize(scaled, mean.tolist(), std.tolist()))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["shift", "plain", "large"])
def test_what_is_drawn_comes_from_the_generator(name):
    x = images(side=16)
    first, again, other = (getattr(augment, name)(x, 16, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_resized_crop_is_at_most_a_third_wider_or_higher(monkeypatch):
    """Inception's aspects, 3/4 to 4/3; a crop as high or wide as the image is cut off."""
    boxes, original = [], reference.resized_crop

    def watched(image, top, left, height, width, *others):
        boxes.append((height, width))
        return original(image, top, left, height, width, *others)

    monkeypatch.setattr(reference, "resized_crop", watched)
    augment.large(images(300, side=40), 32, np.random.default_rng(0))
    aspects = [width / height for height, width in boxes if height < 40 and width < 40]
    assert 0.7 < min(aspects) < 0.8 and 1.25 < max(aspects) < 1.43
