"""Views: pixel by pixel, known turns and shifts, limits, colours, seeds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fewcore_meta.augmentation import CHROMA, LUMA, Distortion, Draws, distorted

ALL = Distortion(20, 0.1, 1.3, 10, 0.03, 0.5, True)


def pictures(n=4, c=1, h=9, w=9, seed=0):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def views(distortion, images, seed=0, turned=None):
    draws = distortion.draw(len(images), tuple(images.shape[2:]), generator(seed), turned)
    return distorted(images, draws, (0.0, 1.0))


def cubic(t):
    """Weights of the four points around a place t in [0, 1) past the second, at a = -3/4 as in torch."""
    a = -0.75
    near = [(a + 2) * d**3 - (a + 3) * d**2 + 1 for d in (t, 1 - t)]
    far = [a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a for d in (1 + t, 2 - t)]
    return [far[0], *near, far[1]]


def bend_at(bend, row, column, h, w):
    """The displacement of a pixel, bicubic between the control points, whose corners are the corners of the view."""
    p = bend.shape[-1]
    places = [i * (p - 1) / (n - 1) for i, n in ((row, h), (column, w))]
    starts = [math.floor(v) for v in places]
    weights = [cubic(v - s) for v, s in zip(places, starts, strict=True)]
    total = np.zeros(2)
    for i in range(4):
        for j in range(4):
            y, x = (min(max(s - 1 + k, 0), p - 1) for s, k in zip(starts, (i, j), strict=True))
            total += weights[0][i] * weights[1][j] * bend[:, y, x].numpy()
    return total


def pixel(image, y, x):
    """Bilinear between pixel centres; outside, the border."""
    h, w = image.shape
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    top, left = min(int(y), h - 2), min(int(x), w - 2)
    dy, dx = y - top, x - left
    rows = image[top : top + 2, left : left + 2]
    return float((1 - dy) * ((1 - dx) * rows[0, 0] + dx * rows[0, 1]) + dy * ((1 - dx) * rows[1, 0] + dx * rows[1, 1]))


@pytest.mark.parametrize(("h", "w"), [(9, 9), (7, 12)])
def test_a_view_equals_a_loop_over_pixels(h, w):
    images = pictures(3, 1, h, w)
    draws = ALL.draw(3, (h, w), generator())
    made = distorted(images, draws, (0.0, 1.0))
    for n in range(3):
        for row in range(h):
            for column in range(w):
                place = np.array([(2 * column + 1) / w - 1, (2 * row + 1) / h - 1, 1.0])
                x, y = draws.matrices[n].numpy() @ place + bend_at(draws.bends[n], row, column, h, w)
                expected = pixel(images[n, 0], ((y + 1) * h - 1) / 2, ((x + 1) * w - 1) / 2)
                assert abs(float(made[n, 0, row, column]) - expected) < 2e-5


def test_without_distortion_views_are_the_images():
    images = pictures(c=3)
    torch.testing.assert_close(views(Distortion(), images), images)


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_quarter_turn_is_exact_on_squares(quarter):
    images = pictures()
    made = views(Distortion(), images, turned=torch.full((4,), 90.0 * quarter))
    torch.testing.assert_close(made, torch.rot90(images, quarter, (2, 3)), atol=1e-5, rtol=0)


def test_an_oblong_image_turns_without_shear():
    # A square in the middle of an oblong image, turned by a quarter, is the same square.
    images = torch.zeros(1, 1, 8, 16)
    images[:, :, 2:6, 6:10] = 1
    torch.testing.assert_close(views(Distortion(), images, turned=torch.tensor([90.0])), images, atol=1e-5, rtol=0)


def test_flips_mirror_about_half_of_the_views():
    images = pictures(1).expand(400, -1, -1, -1)
    made = views(Distortion(flip=True), images)
    flipped = torch.tensor([bool((v - images[0].flip(-1)).abs().max() < 1e-5) for v in made])
    kept = torch.tensor([bool((v - images[0]).abs().max() < 1e-5) for v in made])
    assert (flipped ^ kept).all()
    assert abs(float(flipped.float().mean()) - 0.5) < 0.1  # four standard errors of 400 coins


def test_draws_stay_within_their_limits_and_use_them():
    n = 4000
    angles = Distortion(rotate=30).draw(n, (8, 8), generator()).matrices
    turned = torch.atan2(angles[:, 1, 0], angles[:, 0, 0]).rad2deg()
    assert 29 < float(turned.abs().max()) <= 30.001
    factors = Distortion(zoom=1.5).draw(n, (8, 8), generator()).matrices[:, [0, 1], [0, 1]]
    assert 1.49 < float(factors.max()) <= 1.5001
    assert 0.6666 <= float(factors.min()) < 0.67
    shifts = Distortion(shift=0.25).draw(n, (8, 8), generator()).matrices[:, :, 2]
    assert 0.49 < float(shifts.abs().max()) <= 0.5001
    bends = Distortion(elastic=0.05).draw(n, (8, 8), generator()).bends
    assert abs(float(bends.std()) - 0.1) < 0.002


def test_crops_keep_their_share_and_stay_inside():
    windows = Distortion(crop=0.3).draw(4000, (8, 8), generator()).matrices
    sides, centres = windows[:, [0, 1], [0, 1]], windows[:, :, 2]
    area = sides.prod(1)
    # A rectangle that would be wider than the image is cut to it, which may take as much as the aspect, 4/3.
    assert 0.3 * 0.75 <= float(area.min()) < 0.32
    assert 0.95 < float(area.max()) <= 1
    assert float((centres.abs() + sides).max()) <= 1.0001


def recoloured(image, brightness, contrast, saturation, hue):
    """Colours changed one pixel at a time, hue through the inverse of YIQ."""
    image = image * brightness
    level = (np.array(LUMA)[:, None, None] * image).sum(0).mean()
    image = level + (image - level) * contrast
    base = np.array([LUMA, *CHROMA])
    made = np.empty_like(image)
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            y, i, q = base @ image[:, row, column]
            i, q = saturation * (i * np.cos(hue) - q * np.sin(hue)), saturation * (i * np.sin(hue) + q * np.cos(hue))
            made[:, row, column] = np.linalg.solve(base, [y, i, q])
    return made.clip(0, 1)


def test_colours_equal_a_loop_over_pixels():
    images = pictures(3, 3, 4, 5)
    draws = Distortion(jitter=0.5).draw(3, (4, 5), generator())
    made = distorted(images, draws, (0.0, 1.0))
    for n in range(3):
        expected = recoloured(images[n].double().numpy(), *draws.colours[n].double().numpy())
        np.testing.assert_allclose(made[n].numpy(), expected, atol=1e-5)
    factors = Distortion(jitter=0.5).draw(4000, (4, 5), generator()).colours
    assert 0.39 < float((factors[:, :3] - 1).abs().max()) <= 0.4001
    assert 0.62 < float(factors[:, 3].abs().max()) <= 0.2 * math.pi + 1e-4


def test_grey_views_have_equal_channels():
    made = views(Distortion(grey=0.5), pictures(400, 3))
    grey = (made.amax(1) - made.amin(1)).flatten(1).amax(1) < 1e-6
    assert abs(float(grey.float().mean()) - 0.5) < 0.1
    luma = (pictures(400, 3) * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1)
    torch.testing.assert_close(made[grey][:, 0], luma[grey])


def test_values_stay_within_the_range_of_the_images():
    images = 4 * pictures(50) - 2
    made = distorted(images, Distortion(jitter=1.0).draw(50, (9, 9), generator()), (-2.0, 2.0))
    assert float(made.min()) >= -2
    assert float(made.max()) <= 2


def test_seeds_decide_and_global_random_state_is_untouched():
    images, everything = pictures(c=3), replace(ALL, jitter=0.5, grey=0.5)
    before = torch.get_rng_state()
    torch.testing.assert_close(views(everything, images), views(everything, images), atol=0, rtol=0)
    assert float((views(everything, images, 1) - views(everything, images)).abs().max()) > 0.01
    assert torch.equal(before, torch.get_rng_state())


def test_repeated_draws_treat_all_images_alike():
    images, everything = pictures(c=3), replace(ALL, jitter=0.5, grey=0.5)
    draws = everything.draw(2, (9, 9), generator())
    assert isinstance(draws, Draws)
    made = distorted(images, draws.repeated(1, 4), (0.0, 1.0))
    for n in range(4):
        alone = distorted(images[n : n + 1], draws.repeated(1, 1), (0.0, 1.0))
        torch.testing.assert_close(made[n : n + 1], alone)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    images, everything = pictures(50, 3), replace(ALL, jitter=0.5, grey=0.5)
    draws = everything.draw(50, (9, 9), generator())
    made = [distorted(images.to(device), draws, (0.0, 1.0)).cpu() for device in ("cpu", "cuda")]
    torch.testing.assert_close(made[0], made[1], atol=1e-4, rtol=0)
