"""The class-aware sampler."""

import numpy as np

from pipeline.sampling import class_balanced


def test_every_class_is_drawn_equally_often():
    labels = np.repeat([0, 1, 2, 4], [500, 60, 7, 1])  # class 3 is absent
    drawn = labels[class_balanced(labels, 4 * 4 * 50, np.random.default_rng(0))]
    assert np.bincount(drawn).tolist() == [200, 200, 200, 0, 200]


def test_from_the_start_classes_differ_by_at_most_one_visit():
    labels = np.repeat(np.arange(10), np.arange(1, 11) ** 2)
    drawn = labels[class_balanced(labels, 1003, np.random.default_rng(1), each=4)]
    for stop in (40, 333, 1003):
        counts = np.bincount(drawn[:stop], minlength=10)
        assert counts.max() - counts.min() <= 4


def test_a_class_cycles_through_all_its_images():
    labels = np.repeat([0, 1], [50, 3])
    drawn = class_balanced(labels, 400, np.random.default_rng(2))
    assert np.bincount(drawn, minlength=53)[:50].tolist() == [4] * 50
    assert set(np.bincount(drawn, minlength=53)[50:]) <= {66, 67}


def test_draws_depend_on_the_generator_alone():
    labels = np.repeat([0, 1], [50, 3])
    first, again, other = (class_balanced(labels, 100, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
