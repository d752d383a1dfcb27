"""Pixels, normalised and whitened, against a literal transcription."""

from __future__ import annotations

import numpy as np
import pytest

from fewcore import DataError, ImageSet, ImageSpec, ResourceError, Run
from fewcore_embed.pixels import PixelEncoder, Pixels


def image_set(n=120, size=4, channels=2, dtype=np.uint8, seed=0, value_range=(0, 255)):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, channels, size, size))
    pixels = pixels.astype(np.uint8) if dtype == np.uint8 else (pixels / 255).astype(dtype)
    return ImageSet(pixels, np.arange(n), np.arange(n), ImageSpec((size, size), channels, value_range))


def slow(images, eps):
    rows = np.array([x.reshape(-1).astype(np.float64) for x in images.images])
    rows = np.array([(x - x.mean()) / np.sqrt(x.var() + 10) for x in rows])
    u, s, _ = np.linalg.svd(np.cov(rows, rowvar=False))
    return rows @ (u @ np.diag(1 / np.sqrt(s + eps)) @ u.T)


@pytest.mark.parametrize("eps", [1e-2, 0.1])
def test_embedding_is_that_of_the_equations(eps):
    images = image_set()
    found = Pixels(zca_eps=eps).fit(images, Run()).embed(images, Run())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow(images, eps), rtol=1e-4, atol=1e-4)


def test_default_is_the_papers_and_finite_on_constant_borders():
    images = image_set()
    images.images[:, :, 0, :] = 0
    vectors = Pixels().fit(images, Run()).embed(images, Run())
    assert Pixels().zca_eps == 1e-5
    assert np.isfinite(vectors).all()
    assert np.isfinite(Pixels(zca_eps=0.0).fit(images, Run()).embed(images, Run())).all()


def test_covariance_is_white_but_for_the_direction_that_normalising_removes():
    images = image_set(n=2000)
    vectors = Pixels().fit(images, Run()).embed(images, Run()).astype(np.float64)
    values = np.linalg.eigvalsh(np.cov(vectors, rowvar=False))
    np.testing.assert_allclose(values[1:], 1, rtol=1e-2)
    assert values[0] < 1e-3


def test_brightness_and_nearly_contrast_make_no_difference():
    images = image_set()
    encoder = Pixels(zca_eps=0.1).fit(images, Run())
    darker = ImageSet((images.images // 2).astype(np.uint8), images.ids, images.groups, images.spec)
    np.testing.assert_allclose(encoder.embed(darker, Run()), encoder.embed(images, Run()), atol=0.1)


def test_floats_mean_the_same_as_bytes():
    images, floats = image_set(), image_set(dtype=np.float32, value_range=(0, 1))
    encoder = Pixels(zca_eps=0.01).fit(images, Run())
    other = Pixels(zca_eps=0.01).fit(floats, Run())
    np.testing.assert_allclose(other.embed(floats, Run()), encoder.embed(images, Run()), rtol=1e-3, atol=1e-3)


def test_encoder_survives_saving():
    images = image_set()
    encoder = Pixels().fit(images, Run())
    again = PixelEncoder.from_arrays(*encoder.to_arrays(), {})
    assert again.dim == encoder.dim == 32
    np.testing.assert_array_equal(again.embed(images, Run()), encoder.embed(images, Run()))


def test_errors_say_what_to_do():
    with pytest.raises(DataError, match=r"^pixels: found 1 images; expected at least two$"):
        Pixels().fit(image_set(n=1), Run())
    with pytest.raises(ResourceError, match=r"12800 numbers each; expected at most 8192 \(set a smaller image size\)$"):
        Pixels().fit(image_set(n=2, size=80), Run())
    with pytest.raises(
        DataError, match=r"^pixels: found value_range \[1, 1\] in the images' spec; expected low < high$"
    ):
        Pixels().fit(image_set(dtype=np.float32, value_range=(1, 1)), Run())
    broken = image_set(dtype=np.float32, value_range=(0, 1))
    broken.images[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"^pixels: found NaN or infinity in the images; expected finite numbers$"):
        Pixels().fit(broken, Run())
    encoder = Pixels().fit(image_set(), Run())
    with pytest.raises(
        DataError, match=r"^pixels: found images \(2, 5, 5\); expected 32 numbers each, as in training$"
    ):
        encoder.embed(image_set(size=5), Run())
