"""Phantoms of chests: sizes, seeds, classes, patients; that masks are exact, and that classes and edges can be seen."""

from __future__ import annotations

import numpy as np
import pytest

from fewcore import Run, numpy_generator
from fewcore_medical import phantom_film
from fewcore_medical.phantom_anatomy import PATIENT, chest, draw, lung_place, posed, to_image
from fewcore_medical.phantom_chest import PhantomChest
from fewcore_medical.phantom_film import lesions


def load(seed=0, **options):
    return PhantomChest(**{"n_train": 24, "n_validation": 6, "n_test": 9, "image_size": 32, **options}).load(Run(seed))


@pytest.fixture(scope="module")
def many():
    return load(n_train=150, n_validation=0, n_test=0, image_size=64)


def rows_of(images, split):
    return np.isin(images.ids, images.splits[split])


def test_images_have_masks_classes_and_patients():
    images = load()
    assert images.images.shape == (39, 1, 32, 32)
    assert images.images.dtype == np.uint8
    mask = images.targets["mask"]
    assert (mask.kind, mask.names, mask.values.dtype, mask.values.shape) == (
        "masks",
        ("lungs",),
        np.float32,
        (39, 1, 32, 32),
    )
    assert set(np.unique(mask.values)) == {0, 1}
    assert images.class_names == ("normal", "tuberculosis", "nodule")
    assert images.target == "class"
    for split, n in (("train", 24), ("validation", 6), ("test", 9)):
        np.testing.assert_array_equal(np.bincount(images.labels[rows_of(images, split)]), [n // 3] * 3)


def test_the_size_is_free_and_splits_may_be_left_out():
    images = load(image_size=50, n_train=4, n_validation=0, n_test=0)
    assert images.images.shape == (4, 1, 50, 50)
    assert set(images.splits) == {"train"}
    np.testing.assert_array_equal(np.bincount(images.labels), [2, 1, 1])


def test_larger_images_show_the_same_lungs():
    small, large = load(image_size=32), load(image_size=96)
    blocks = large.targets["mask"].values[:, 0].reshape(39, 32, 3, 32, 3)
    # The middle of a pixel is that of nine.
    np.testing.assert_array_equal(small.targets["mask"].values[:, 0], blocks[:, :, 1, :, 1])


def test_a_draw_fixes_everything_and_another_changes_it():
    one, same, other = load(0, draw=3), load(1, draw=3), load(0, draw=4)
    for name in ("images", "ids", "groups", "labels"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    np.testing.assert_array_equal(one.targets["mask"].values, same.targets["mask"].values)
    assert (one.images != other.images).mean() > 0.5


def test_patients_have_several_films_of_one_class_in_one_split(many):
    sizes = np.bincount(many.groups)
    assert set(sizes[sizes > 0]) == {1, 2}
    for group in np.unique(many.groups):
        assert len(set(many.labels[many.groups == group])) == 1
    assert len(np.unique(load(films=1).groups)) == 39
    # Films of a patient differ.
    pair = many.images[many.groups == np.argmax(sizes)].astype(int)
    assert np.abs(pair[0] - pair[1]).mean() > 5


def test_ids_and_groups_tell_nothing_of_the_class(many):
    for numbers in (many.ids, many.groups):
        assert abs(np.corrcoef(numbers, many.labels)[0, 1]) < 0.2


def test_lungs_are_two_and_darker_than_what_is_around_them(many):
    from scipy import ndimage

    masks = many.targets["mask"].values[:, 0] > 0
    share = masks.mean((1, 2))
    assert share.min() > 0.05
    assert share.max() < 0.45
    parts = np.array([ndimage.label(mask, np.ones((3, 3)))[1] for mask in masks])
    # A turned film may cut a corner off a lung.
    assert np.mean(parts == 2) > 0.97
    assert set(parts) <= {2, 3}
    ring = ndimage.binary_dilation(masks, np.ones((1, 5, 5))) & ~masks
    pixels = many.images[:, 0].astype(float)
    contrast = [image[r].mean() - image[m].mean() for image, m, r in zip(pixels, masks, ring, strict=True)]
    assert np.mean(np.array(contrast) > 0) > 0.97
    assert min(contrast) < 30 < 90 < max(contrast)


def test_masks_tell_nothing_of_the_class(many):
    masks = many.targets["mask"].values[:, 0]
    shares = [masks[many.labels == k].mean((1, 2)) for k in range(3)]
    spread = np.std(np.concatenate(shares)) / np.sqrt(50)
    means = np.array([share.mean() for share in shares])
    assert np.ptp(means) < 4 * spread


def test_lesions_are_in_the_lungs_and_of_the_class():
    rng = numpy_generator(0)
    classes = np.repeat(np.arange(3), 40)
    film = posed(draw(PATIENT, 120, rng), np.arange(120), rng)
    found = lesions(film, classes, rng)
    np.testing.assert_array_equal((found.nodules.weight > 0).any(1), classes == phantom_film.NODULE)
    np.testing.assert_array_equal((found.infiltrates.weight > 0).any(1), classes == phantom_film.TUBERCULOSIS)
    inside = chest(film, 64).lungs > 0
    for blobs, share in ((found.nodules, 0.97), (found.infiltrates, 0.85)):
        rows, slots = np.nonzero(blobs.weight)
        column, row = (((places[rows, slots] + 1) * 32).astype(int).clip(0, 63) for places in (blobs.x, blobs.y))
        assert inside[rows, row, column].mean() > share


def test_to_image_turns_back_what_the_pixels_places_were_turned_by():
    rng = numpy_generator(1)
    film = posed(draw(PATIENT, 5, rng), np.arange(5), rng)
    film["warp_x"], film["warp_y"] = np.zeros(5, np.float32), np.zeros(5, np.float32)
    here = chest(film, 16)
    x, y = to_image(film, here.x.reshape(5, -1), here.y.reshape(5, -1))
    middle = (np.arange(16) + 0.5) / 8 - 1
    np.testing.assert_allclose(x.reshape(5, 16, 16), np.broadcast_to(middle, (5, 16, 16)), atol=1e-5)
    np.testing.assert_allclose(y.reshape(5, 16, 16), np.broadcast_to(middle[:, None], (5, 16, 16)), atol=1e-5)


def test_lung_places_span_the_lungs():
    rng = numpy_generator(2)
    film = posed(draw(PATIENT, 3, rng), np.arange(3), rng)
    side = np.array([[-1, 1]] * 3)
    x, _ = lung_place(film, side, np.full((3, 2), 0.5), np.full((3, 2), 0.0))
    np.testing.assert_allclose(np.abs(x), np.broadcast_to(film["gap"][:, None], (3, 2)), rtol=1e-5)
    np.testing.assert_array_equal(np.sign(x), side)
    wider, _ = lung_place(film, side, np.full((3, 2), 0.5), np.full((3, 2), 1.0))
    assert (np.abs(wider) > np.abs(x) + 0.2).all()
    tip = lung_place(film, side, np.zeros((3, 2)), np.zeros((3, 2)))[1]
    np.testing.assert_allclose(tip, np.broadcast_to(film["apex"][:, None], (3, 2)), rtol=1e-5)


def test_blobs_are_painted_as_gaussians():
    blobs = phantom_film.Blobs(
        *(np.array([[a, b]], np.float32) for a, b in ((0.1, -0.5), (0.3, 0), (0.2, 0.1), (0.1, 0.3), (1, 2)))
    )
    painted = blobs.painted(20)[0]
    middle = (np.arange(20) + 0.5) / 10 - 1
    for row in (0, 7, 13):
        for column in (2, 11):
            x, y = middle[column], middle[row]
            slow = np.exp(-((x - 0.1) ** 2) / 0.08 - (y - 0.3) ** 2 / 0.02) + 2 * np.exp(
                -((x + 0.5) ** 2) / 0.02 - y**2 / 0.18
            )
            np.testing.assert_allclose(painted[row, column], slow, rtol=1e-4, atol=1e-6)


def test_random_fields_have_mean_zero_and_variance_one_everywhere():
    fields = phantom_film._field(4000, 12, 5, numpy_generator(0))
    np.testing.assert_allclose(fields.mean(0), 0, atol=0.08)
    np.testing.assert_allclose(fields.var(0), 1, atol=0.12)


def test_images_are_made_quickly():
    import time

    began = time.process_time()
    load(n_train=100, n_validation=0, n_test=0, image_size=128)
    # 0.2 s on one core of a server, 2 s for 1000; room is left for slower ones.
    assert time.process_time() - began < 1
