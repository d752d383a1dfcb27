"""Digits: sizes, splits, pixels, the same each time."""

import numpy as np
from sklearn.datasets import load_digits

from fewcore import Run
from fewcore.builtin.digits import Digits


def test_splits_are_stratified_and_cover_all():
    digits = Digits().load(Run())
    assert {name: len(ids) for name, ids in digits.splits.items()} == {"train": 1000, "validation": 297, "test": 500}
    assert len(np.unique(np.concatenate(list(digits.splits.values())))) == 1797
    share = np.bincount(digits.labels) / 1797
    for ids in digits.splits.values():
        counts = np.bincount(digits.labels[np.isin(digits.ids, ids)], minlength=10)
        assert np.abs(counts - share * len(ids)).max() <= 1.5


def test_pixels_are_those_of_the_source():
    digits = Digits().load(Run())
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.dtype == np.uint8
    np.testing.assert_array_equal(np.rint(digits.images[:, 0] / 255 * 16), load_digits().images)
    np.testing.assert_array_equal(digits.labels, load_digits().target)
    assert digits.class_names == tuple("0123456789")
    assert (digits.images.min(), digits.images.max()) == digits.spec.value_range


def test_seed_changes_nothing():
    one, other = Digits().load(Run(0)), Digits().load(Run(1))
    np.testing.assert_array_equal(one.ids, other.ids)
    assert all(np.array_equal(one.splits[name], other.splits[name]) for name in one.splits)


def test_ids_say_nothing_of_the_class():
    digits = Digits().load(Run())
    assert abs(np.corrcoef(digits.ids, digits.labels)[0, 1]) < 0.1
