"""The data that passes between stages: scales of ratings."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fewcore import DataError, ImageSet, Target
from fewcore.testing import toy_images

RATINGS = np.array([[[1.0, 6.0], [5.0, np.nan]]])


def test_one_scale_serves_for_every_name() -> None:
    target = Target("ratings", RATINGS, ("size", "edge"), (1, 6))
    assert target.scales is not None
    np.testing.assert_array_equal(target.scales, [[1, 6], [1, 6]])
    assert Target("ratings", RATINGS, ("size", "edge")).scales is None


def test_each_name_may_have_a_scale_of_its_own() -> None:
    target = Target("ratings", RATINGS, ("size", "edge"), ((1, 5), (1, 6)))
    assert target.scales is not None
    np.testing.assert_array_equal(target.scales, [[1, 5], [1, 6]])


@pytest.mark.parametrize("scale", [(1, 2, 3), ((1, 5),), ((1, 5), (6, 1)), (5, 1)])
def test_other_scales_are_refused(scale: tuple[float, float]) -> None:
    expected = r"expected \(low, high\), or 2 such pairs, one for each name"
    with pytest.raises(DataError, match=expected):
        Target("ratings", RATINGS, ("size", "edge"), scale)


@pytest.mark.parametrize("scale", [None, (1.0, 6.0), ((1.0, 5.0), (1.0, 6.0))])
def test_a_scale_survives_saving(scale: tuple[float, float] | None) -> None:
    images = toy_images(targets=True)
    ratings = replace(images.targets["ratings"], scale=scale)
    arrays, meta = replace(images, targets={"ratings": ratings}, target="").to_arrays()
    again = ImageSet.from_arrays(arrays, json.loads(json.dumps(meta)), {})
    assert again.targets["ratings"].scale == scale
