import numpy as np
import pytest

from fewcore import DataError, Embeddings, Run
from fewcore.testing import ToyEncoder, toy_embeddings, toy_images
from fewcore_example.nearest_anchors import NearestAnchors


def embeddings(vectors: np.ndarray) -> Embeddings:
    return Embeddings(vectors, np.arange(len(vectors)) + 50, ToyEncoder.of_shape())


def test_agrees_with_the_slow_form():
    given = toy_embeddings(toy_images())
    found = NearestAnchors(n_parts=5, n_partitions=3).partition(given, Run(4))
    rng = Run(4).rng
    for parts in found.parts:
        anchors = given.vectors[rng.permutation(len(given))[:5]]
        for vector, part in zip(given.vectors, parts, strict=True):
            distances = [np.sqrt(((vector - anchor).astype(np.float64) ** 2).sum()) for anchor in anchors]
            assert part == int(np.argmin(distances))


def test_every_anchor_is_in_its_own_part_and_no_part_is_empty():
    vectors = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    found = NearestAnchors(n_parts=40, n_partitions=2).partition(embeddings(vectors), Run())
    assert (np.sort(found.parts, 1) == np.arange(40)).all()


def test_shift_and_rotation_change_nothing():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(60, 4))
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    component = NearestAnchors(n_parts=6)
    plain = component.partition(embeddings(vectors), Run(2))
    moved = component.partition(embeddings(vectors @ rotation + 3), Run(2))
    np.testing.assert_array_equal(plain.parts, moved.parts)


def test_equal_vectors_go_to_the_anchor_drawn_first():
    found = NearestAnchors(n_parts=3, n_partitions=1).partition(embeddings(np.ones((10, 2))), Run())
    assert (found.parts == 0).all()


def test_seeds_differ_and_ids_are_those_of_the_rows():
    given = toy_embeddings(toy_images())
    one, other = (NearestAnchors(n_parts=4).partition(given, Run(seed)) for seed in (0, 1))
    assert (one.parts != other.parts).any()
    np.testing.assert_array_equal(one.ids, given.ids)


def test_too_few_images():
    message = r"nearest-anchors: found 3 images; expected at least 20, one for each part \(lower n_parts\)"
    with pytest.raises(DataError, match=message):
        NearestAnchors().partition(embeddings(np.ones((3, 2))), Run())


def test_several_vectors_an_image():
    message = r"nearest-anchors: found vectors \(3, 2, 5\); expected one for each image, \(n, e\)"
    with pytest.raises(DataError, match=message):
        NearestAnchors(n_parts=2).partition(embeddings(np.ones((3, 2, 5))), Run())
