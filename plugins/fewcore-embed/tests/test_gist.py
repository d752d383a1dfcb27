"""GIST against a slow transcription in numpy: loops over pixels, blocks and filters, transforms by their definition."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from fewcore import DataError, ImageSet, ImageSpec, Run
from fewcore_embed.gist import Gist, GistEncoder, GistSettings, gabor_bank, gist, local_contrast
from fewcore_embed.prepare import resized, squared

SMALL = GistSettings(32, 4, (5, 4), 4.0)


def image_set(pixels, value_range=(0, 255)):
    n = len(pixels)
    return ImageSet(pixels, np.arange(n), np.arange(n), ImageSpec(pixels.shape[2:], pixels.shape[1], value_range))


def pictures(n=3, size=32, seed=0):
    return np.random.default_rng(seed).random((n, size, size)) * 255


def mirror(x, margin):
    return np.pad(x, margin, mode="symmetric")


def transform(n, sign):
    k = np.arange(n)
    return np.exp(sign * 2j * np.pi * np.outer(k, k) / n)


def forward(x):
    f = transform(len(x), -1)
    return f @ x @ f.T


def backward(x):
    f = transform(len(x), 1)
    return f @ x @ f.T / len(x) ** 2


def centred(n):
    return [k if k < n / 2 else k - n for k in range(n)]


def slow_prefilter(x, cutoff):
    margin, s = 5, cutoff / np.sqrt(np.log(2))
    x = mirror(np.log(x + 1), margin)
    n = len(x)
    low = np.array([[np.exp(-(fx**2 + fy**2) / s**2) for fx in centred(n)] for fy in centred(n)])
    x = x - backward(forward(x) * low).real
    deviation = np.sqrt(np.abs(backward(forward(x**2) * low)))
    return (x / (0.2 + deviation))[margin:-margin, margin:-margin]


@cache
def slow_filter(n, scale, orientation, n_orientations):
    made = np.zeros((n, n))
    for row, fy in enumerate(centred(n)):
        for column, fx in enumerate(centred(n)):
            f, theta = np.hypot(fx, fy), np.angle(fx + 1j * fy)
            turned = theta + np.pi / n_orientations * orientation
            if turned > np.pi:
                turned -= 2 * np.pi
            peak = 0.3 / 1.85**scale
            made[row, column] = np.exp(
                -10 * 0.35 * (f / n / peak - 1) ** 2 - 2 * np.pi * (16 * n_orientations**2 / 32**2) * turned**2
            )
    return made


def slow_gist(x, settings):
    x = (x - x.min()) / (x.max() - x.min()) * 255
    x = mirror(slow_prefilter(x, settings.cutoff), 32)
    spectrum, found = forward(x), []
    edges = np.linspace(0, settings.size, settings.n_blocks + 1).astype(int)
    for scale, n_orientations in enumerate(settings.orientations):
        for orientation in range(n_orientations):
            answer = np.abs(backward(spectrum * slow_filter(len(x), scale, orientation, n_orientations)))[
                32:-32, 32:-32
            ]
            for left, right in pairwise(edges):
                for top, bottom in pairwise(edges):
                    found.append(answer[top:bottom, left:right].mean())
    return np.array(found)


def test_descriptor_is_that_of_the_equations():
    x = pictures(2)
    found = gist(torch.from_numpy(x), SMALL).numpy()
    assert found.shape == (2, 9 * 16)
    np.testing.assert_allclose(found, [slow_gist(one, SMALL) for one in x], rtol=1e-8, atol=1e-10)


def test_each_step_is_that_of_the_equations():
    x = pictures(1)[0]
    found = local_contrast(torch.from_numpy(x)[None], 4.0)[0].numpy()
    np.testing.assert_allclose(found, slow_prefilter(x, 4.0), rtol=1e-8, atol=1e-10)
    bank = gabor_bank(24, (2, 3)).numpy()
    slow = [slow_filter(24, scale, o, n) for scale, n in enumerate((2, 3)) for o in range(n)]
    np.testing.assert_allclose(bank, slow, rtol=1e-10, atol=1e-14)


def test_float32_is_close_to_float64():
    x = torch.from_numpy(pictures(2))
    torch.testing.assert_close(gist(x.float(), SMALL).double(), gist(x, SMALL), rtol=1e-3, atol=1e-4)


def test_resizing_is_the_mean_under_a_widened_triangle():
    x = np.random.default_rng(1).random((30, 30))
    centre, width = (np.arange(8) + 0.5) * 30 / 8 - 0.5, 30 / 8
    weights = np.maximum(0, 1 - np.abs(np.arange(30) - centre[:, None]) / width)
    weights /= weights.sum(1, keepdims=True)
    found = resized(torch.from_numpy(x)[None, None], (8, 8))[0, 0].numpy()
    np.testing.assert_allclose(found, weights @ x @ weights.T, rtol=1e-8)


def test_default_is_512_numbers_and_the_same_for_every_seed():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 40, 60)).astype(np.uint8)
    images = image_set(pixels)
    encoder = Gist().fit(Run(0))
    vectors = encoder.embed(images, Run(0))
    assert vectors.shape == (5, 512)
    assert vectors.dtype == np.float32
    assert encoder.dim == 512
    again = GistEncoder.from_arrays(*encoder.to_arrays(), {})
    assert again.settings == encoder.settings
    np.testing.assert_array_equal(again.embed(images, Run(1)), vectors)
    square = squared(torch.from_numpy(pixels).double().mean(1)) / 255
    expected = gist(resized(square[:, None], (128, 128))[:, 0], GistSettings())
    np.testing.assert_allclose(vectors, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_brightness_and_contrast_of_the_whole_picture_make_no_difference():
    x = torch.from_numpy(pictures(2))
    torch.testing.assert_close(gist(0.5 * x + 30, SMALL), gist(x, SMALL))


def test_a_quarter_turn_moves_the_answer_to_the_filters_across():
    stripes = np.tile(np.sin(np.arange(64) * 2 * np.pi / 6), (64, 1))[None]
    settings = GistSettings(64, 1, (4,))
    upright = gist(torch.from_numpy(stripes), settings)[0]
    lying = gist(torch.from_numpy(stripes.swapaxes(1, 2).copy()), settings)[0]
    assert [int(upright.argmax()), int(lying.argmax())] == [0, 2]
    torch.testing.assert_close(upright[0], lying[2], rtol=1e-3, atol=0)


def test_an_image_without_contrast_gives_zeros():
    vectors = Gist(size=32).fit(Run()).embed(image_set(np.full((2, 1, 20, 20), 7, np.uint8)), Run())
    np.testing.assert_array_equal(vectors, 0)


def test_errors_say_what_to_do():
    encoder = Gist().fit(Run())
    volumes = ImageSet(
        np.zeros((2, 1, 8, 8, 8), np.uint8), np.arange(2), np.arange(2), ImageSpec((8, 8, 8), 1, (0, 255))
    )
    with pytest.raises(DataError, match=r"^gist: found images \(1, 8, 8, 8\); expected 2-D .*\(set crop: slice"):
        encoder.embed(volumes, Run())
    with pytest.raises(DataError, match=r"^gist: found images \(8, 1, 1\); expected at least 2 pixels a side"):
        encoder.embed(image_set(np.zeros((2, 8, 1, 1), np.uint8)), Run())
    broken = np.ones((2, 1, 8, 8), np.float32)
    broken[1, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"^gist: found NaN or infinity in the images; expected finite numbers$"):
        encoder.embed(image_set(broken, (0, 1)), Run())
    with pytest.raises(ValueError, match=r"^size: found 130; expected an even multiple of n_blocks \(4\)$"):
        Gist(size=130)
    with pytest.raises(ValueError, match=r"^size: found 33; expected an even multiple of n_blocks \(3\)$"):
        Gist(size=33, n_blocks=3)
    with pytest.raises(ValueError, match=r"^orientations: found none"):
        Gist(orientations=())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
def test_cuda_agrees_with_the_cpu():
    x = torch.from_numpy(pictures(4, 128))
    torch.testing.assert_close(gist(x.cuda(), GistSettings()).cpu(), gist(x, GistSettings()), rtol=1e-8, atol=1e-8)
