"""Which images an epoch shows."""

import numpy as np
import pytest

from pipeline.sampling import by_class, class_balanced, epoch_order


def test_every_class_is_drawn_equally_often():
    labels = np.repeat([0, 1, 2, 4], [500, 60, 7, 1])  # class 3 is absent
    drawn = labels[class_balanced(labels, 0, 4 * 4 * 50, 0)]
    assert np.bincount(drawn).tolist() == [200, 200, 200, 0, 200]


def test_from_the_start_classes_differ_by_at_most_one_visit():
    labels = np.repeat(np.arange(10), np.arange(1, 11) ** 2)
    drawn = labels[class_balanced(labels, 0, 1003, 1, each=4)]
    for stop in (40, 333, 1003):
        counts = np.bincount(drawn[:stop], minlength=10)
        assert counts.max() - counts.min() <= 4


def test_a_class_cycles_through_all_its_images():
    labels = np.repeat([0, 1], [50, 3])
    drawn = class_balanced(labels, 0, 400, 2)
    assert np.bincount(drawn, minlength=53)[:50].tolist() == [4] * 50
    assert set(np.bincount(drawn, minlength=53)[50:]) <= {66, 67}


def test_draws_depend_on_the_seed_alone():
    labels = np.repeat([0, 1], [50, 3])
    first, again, other = (class_balanced(labels, 0, 100, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_part_of_the_sequence_is_the_same_without_the_rest():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(7), np.arange(1, 8) ** 2))
    whole = class_balanced(labels, 0, 1000, 5)
    for start, stop in ((0, 1), (3, 500), (499, 1000), (777, 778)):
        assert np.array_equal(class_balanced(labels, start, stop, 5), whole[start:stop])


LABELS = np.repeat([0, 1, 2], [900, 90, 10])


def shown(sampler, epochs=5, seed=3):
    order = epoch_order(sampler, LABELS, epochs, seed)
    return [order(epoch) for epoch in range(epochs)]


@pytest.mark.parametrize("sampler", ["instance", "class_balanced", "square_root", "progressive"])
def test_an_epoch_is_a_function_of_seed_and_epoch(sampler):
    order = epoch_order(sampler, LABELS, 5, 3)
    backwards = [order(epoch) for epoch in (4, 3, 2, 1, 0)][::-1]
    for epoch, again, other in zip(shown(sampler), backwards, shown(sampler, seed=4), strict=True):
        assert len(epoch) == len(LABELS)
        assert np.array_equal(epoch, again)
        assert not np.array_equal(epoch, other)
    assert not np.array_equal(*shown(sampler)[:2])


@pytest.mark.parametrize("sampler", ["instance", "class_balanced", "square_root"])
def test_a_longer_run_begins_as_a_shorter_one(sampler):
    for short, long in zip(shown(sampler, epochs=3), shown(sampler, epochs=9), strict=False):
        assert np.array_equal(short, long)


def shares(epoch):
    return np.bincount(LABELS[epoch], minlength=3) / len(epoch)


def within_chance(actual, expected, n):
    return (np.abs(actual - expected) < 5 * np.sqrt(expected * (1 - expected) / n) + 1e-12).all()


def test_instance_shows_every_image_once():
    for epoch in shown("instance"):
        assert sorted(epoch) == list(range(1000))


def test_class_balanced_goes_on_through_its_cycles():
    epochs = shown("class_balanced")
    assert all(np.ptp(np.bincount(LABELS[epoch])) <= 8 for epoch in epochs)  # a round may be cut at both ends
    assert set(np.bincount(np.concatenate(epochs))[:900]) == {1, 2}  # 1,667 draws of the largest class over the run


def test_square_root_is_eq_1_at_a_half():
    expected = np.sqrt([900, 90, 10]) / np.sqrt([900, 90, 10]).sum()
    for epoch in shown("square_root"):
        assert within_chance(shares(epoch), expected, 1000)


def test_progressive_is_eq_2_from_instance_to_class_balanced():
    for t, epoch in zip(np.linspace(0, 1, 5), shown("progressive"), strict=True):
        expected = (1 - t) * np.array([0.9, 0.09, 0.01]) + t / 3
        assert within_chance(shares(epoch), expected, 1000)


def test_progressive_over_one_epoch_is_instance_balanced():
    assert within_chance(shares(epoch_order("progressive", LABELS, 1, 0)(0)), np.array([0.9, 0.09, 0.01]), 1000)


@pytest.mark.parametrize("sampler", ["square_root", "progressive"])
def test_images_of_a_class_are_used_alike_within_an_epoch(sampler):
    for epoch in shown(sampler):
        used = np.bincount(epoch, minlength=1000)
        assert all(np.ptp(used[members]) <= 1 for members in by_class(LABELS))


def test_a_class_without_images_is_never_drawn():
    labels = np.repeat([0, 2], [20, 5])
    for sampler in ("class_balanced", "square_root", "progressive"):
        assert set(labels[epoch_order(sampler, labels, 2, 0)(1)]) == {0, 2}
