"""Shapes whose measures are known in closed form, and turned, moved and stretched ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fewcore import DataError, ImageSet, ImageSpec, Run
from fewcore_medical.shape import Shape
from fewcore_medical.shape_features import (
    AREA_NAMES,
    VOLUME_NAMES,
    area_features,
    mesh_volume,
    signed_area,
    spread,
    volume_features,
)


def ellipsoid(*axes, size=48):
    """The share of an ellipsoid in each voxel, soft at its surface."""
    grid = np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2] * len(axes), indexing="ij"), -1)
    radius = np.linalg.norm(grid / np.array(axes), axis=-1)
    return np.clip((1 - radius) * min(axes) + 0.5, 0, 1)


def named(share, spacing=None):
    names, measure = (VOLUME_NAMES, volume_features) if share.ndim == 3 else (AREA_NAMES, area_features)
    return dict(zip(names, measure(share, spacing or (1.0,) * share.ndim), strict=True))


def test_a_ball_has_the_measures_of_a_ball():
    found = named(ellipsoid(15, 15, 15), (0.5, 0.5, 0.5))
    radius = 7.5
    np.testing.assert_allclose(np.exp(found["log-volume"]), 4 / 3 * np.pi * radius**3, rtol=0.01)
    np.testing.assert_allclose(np.exp(found["log-surface"]), 4 * np.pi * radius**2, rtol=0.02)
    np.testing.assert_allclose(found["diameter"], 2 * radius, rtol=0.01)
    np.testing.assert_allclose(found["surface-to-volume"], 3 / radius, rtol=0.02)
    for name in ("sphericity", "elongation", "flatness", "solidity"):
        np.testing.assert_allclose(found[name], 1, atol=0.02)
    np.testing.assert_allclose(found["extent"], np.pi / 6, rtol=0.02)
    assert found["roughness"] < 0.01


def test_an_ellipsoid_is_long_and_flat_however_it_lies():
    found = named(ellipsoid(20, 10, 5))
    np.testing.assert_allclose([found["elongation"], found["flatness"]], [0.5, 0.25], atol=0.02)
    np.testing.assert_allclose(found["diameter"], 40, rtol=0.01)
    turned = named(ellipsoid(5, 20, 10))
    np.testing.assert_allclose(list(turned.values()), list(found.values()), rtol=1e-4)


def test_the_spacing_of_voxels_counts():
    # The same ellipsoid in voxels of 2 x 1 x 1 mm.
    coarse, fine = named(ellipsoid(8, 16, 12), (2, 1, 1)), named(ellipsoid(16, 16, 12))
    np.testing.assert_allclose(list(coarse.values()), list(fine.values()), rtol=0.01, atol=0.02)


def test_a_disc_has_the_measures_of_a_disc():
    found = named(ellipsoid(15, 15), (0.5, 0.5))
    np.testing.assert_allclose(np.exp(found["log-area"]), np.pi * 7.5**2, rtol=0.01)
    np.testing.assert_allclose(np.exp(found["log-perimeter"]), 2 * np.pi * 7.5, rtol=0.02)
    np.testing.assert_allclose([found["circularity"], found["elongation"], found["solidity"]], 1, atol=0.02)
    long = named(ellipsoid(20, 5))
    np.testing.assert_allclose(long["elongation"], 0.25, atol=0.02)
    np.testing.assert_allclose(long["extent"], np.pi / 4, rtol=0.02)


def test_a_dent_costs_solidity_and_adds_roughness():
    whole = ellipsoid(15, 15, 15)
    dented = whole.copy()
    dented[20:28, 20:28, 24:] = 0
    first, second = named(whole), named(dented)
    assert second["solidity"] < first["solidity"] - 0.05
    assert second["roughness"] > first["roughness"] + 0.05
    assert second["sphericity"] < first["sphericity"] - 0.05


def test_holes_subtract_from_an_area():
    ring = ellipsoid(15, 15) - ellipsoid(8, 8)
    np.testing.assert_allclose(np.exp(named(ring)["log-area"]), np.pi * (15**2 - 8**2), rtol=0.02)


def test_volume_area_and_spread_equal_slow_sums():
    rng = np.random.default_rng(0)
    vertices = rng.random((8, 3))
    faces = rng.integers(0, 8, (12, 3))
    slow = sum(np.linalg.det(vertices[face]) for face in faces) / 6
    np.testing.assert_allclose(mesh_volume(vertices, faces), abs(slow))
    line = np.array([(0, 0), (0, 4), (3, 4), (3, 0), (0, 0)], float)
    assert abs(signed_area(line)) == 12
    # Each voxel in 20^3 points: their deviations are those of the box.
    inside = np.zeros((6, 5, 4), bool)
    inside[1:4, 2:4, 1] = True
    steps = (np.arange(20) + 0.5) / 20 - 0.5
    fine = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    points = (np.argwhere(inside)[:, None] + fine[None]).reshape(-1, 3) * np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(spread(inside, (1.0, 2.0, 3.0)), sorted(points.std(0))[::-1], rtol=2e-3)


@pytest.mark.parametrize("shape", [(9, 9, 9), (9, 9)])
def test_one_voxel_and_a_full_image_have_finite_measures(shape):
    single, full = np.zeros(shape), np.ones(shape)
    single[(4,) * len(shape)] = 0.1
    for share in (single, full):
        assert np.isfinite(list(named(share).values())).all()


def image_set(*shares, **changes) -> ImageSet:
    images = np.round(255 * np.stack(shares)[:, None]).astype(np.uint8)
    n = len(images)
    spec = ImageSpec(images.shape[2:], 1, (0, 255))
    return replace(ImageSet(images, np.arange(n), np.arange(n), spec), **changes)


def test_the_encoder_reads_spacings():
    images = image_set(*(ellipsoid(r, 8, 6, size=32) for r in (6, 8, 10, 12)))
    encoder = Shape().fit(Run())
    plain = encoder.embed(images, Run())
    assert plain.shape == (4, encoder.dim) == (4, len(encoder.names)) == (4, 10)
    by_set = replace(images, spec=replace(images.spec, spacing=(2.0, 2.0, 2.0)))
    by_image = replace(by_set, geometry={"spacing": np.full((4, 3), 3.0)})
    for factor, changed in ((2, by_set), (3, by_image)):
        found = encoder.embed(changed, Run())
        np.testing.assert_allclose(found[:, 0], plain[:, 0] + 3 * np.log(factor), rtol=1e-5)
        np.testing.assert_allclose(found[:, 2], factor * plain[:, 2], rtol=1e-5)
        np.testing.assert_allclose(found[:, 3], plain[:, 3], rtol=1e-4)


def test_images_that_are_no_masks_are_refused():
    ball = ellipsoid(6, 6, 6, size=16)
    encoder = Shape().fit(Run())
    with pytest.raises(DataError, match=r"^shape: found 1 of 2 images with nothing in them; expected masks"):
        encoder.embed(image_set(ball, np.zeros_like(ball)), Run())
    with pytest.raises(
        DataError, match=r"^shape: found images \(1, 16, 16\); expected 3 dimensions \(or dimensions: 2\)"
    ):
        encoder.embed(image_set(ball[8], ball[8]), Run())
    assert Shape(dimensions=2).fit(Run()).embed(image_set(ball[8], ball[8]), Run()).shape == (2, 8)
    spec = ImageSpec((16, 16), 3, (0, 255))
    colour = ImageSet(np.ones((2, 3, 16, 16), np.uint8), np.arange(2), np.arange(2), spec)
    with pytest.raises(DataError, match=r"^shape: found images \(3, 16, 16\); expected one channel, a mask"):
        Shape(dimensions=2).fit(Run()).embed(colour, Run())
