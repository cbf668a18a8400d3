"""Class counts and index choice against the reference code's formulas."""

import numpy as np
import pytest

from pipeline import longtail


def reference_counts(kind, n_max, factor, classes):
    """`get_img_num_per_cls` of LDAM-DRW, from its formula; `factor` = 1 / ratio."""
    if kind == "exponential":
        return [int(n_max * (factor ** (k / (classes - 1.0)))) for k in range(classes)]
    return [n_max] * (classes // 2) + [int(n_max * factor)] * (classes // 2)


@pytest.mark.parametrize(
    ("kind", "classes", "n_max", "ratio", "total"),
    [
        ("exponential", 10, 5000, 10, 20431),
        ("exponential", 10, 5000, 50, 13996),
        ("exponential", 10, 5000, 100, 12406),
        ("exponential", 10, 5000, 200, 11203),
        ("exponential", 100, 500, 10, 19573),
        ("exponential", 100, 500, 50, 12608),
        ("exponential", 100, 500, 100, 10847),
        ("exponential", 100, 500, 200, 9502),
        ("exponential", 200, 500, 100, 21549),
        ("step", 10, 5000, 10, 27500),
        ("step", 10, 5000, 100, 25250),
        ("step", 100, 500, 200, 25100),
    ],
)
def test_counts_are_the_published_ones(kind, classes, n_max, ratio, total):
    counts = longtail.class_counts(kind, n_max, ratio, classes)
    assert counts.tolist() == reference_counts(kind, n_max, 1 / ratio, classes)
    assert counts.sum() == total


@pytest.mark.parametrize(("ratio", "groups"), [(10, (69, 31, 0)), (50, (41, 41, 18)), (100, (35, 35, 30)), (200, (30, 31, 39))])
def test_shot_groups_of_cifar100(ratio, groups):
    counts = longtail.class_counts("exponential", 500, ratio, 100)
    assert ((counts > 100).sum(), ((counts <= 100) & (counts >= 20)).sum(), (counts < 20).sum()) == groups


def test_indices_are_those_of_the_reference_code():
    labels = np.random.default_rng(3).integers(0, 10, 5000)
    counts = longtail.class_counts("exponential", 400, 100, 10)
    np.random.seed(0)
    expected = []
    for k in range(10):
        members = np.where(labels == k)[0]
        np.random.shuffle(members)
        expected.extend(members[: counts[k]])
    chosen, left_over = longtail.cut(labels, counts, seed=0)
    assert chosen.tolist() == expected
    assert np.array_equal(np.sort(np.concatenate([chosen, left_over])), np.arange(5000))


def test_subsets_of_one_seed_are_nested_and_without_duplicates():
    labels = np.repeat(np.arange(10), 100)
    subsets = [set(longtail.cut(labels, longtail.class_counts("exponential", 100, ratio, 10), 7)[0]) for ratio in (100, 50, 10)]
    assert subsets[0] < subsets[1] < subsets[2]
    assert len(subsets[2]) == longtail.class_counts("exponential", 100, 10, 10).sum()


def test_take_each_takes_the_first_of_every_class():
    labels = np.array([0, 1, 0, 1, 0, 2])
    assert longtail.take_each(labels, np.array([4, 2, 0, 3, 5]), 2).tolist() == [4, 2, 3, 5]
    assert longtail.take_each(labels, np.array([], int), 2).size == 0
