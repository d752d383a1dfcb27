"""Whitening against its definition, and what fewcore asks of post-processing."""

from __future__ import annotations

import numpy as np
import pytest

from fewcore import DataError, Embeddings, ImageSet, ImageSpec, PostProcessing, Run
from fewcore_embed.whiten import Whiten, Whitened


class Flat:
    """Pixels as vectors: an encoder to stand under the whitening."""

    dim = 12

    def embed(self, images, run):
        return images.images.reshape(len(images), -1).astype(np.float32)


def correlated(n=300, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 12)) @ rng.normal(size=(12, 12)) + 7).astype(np.float32)


def embeddings(vectors):
    return Embeddings(vectors, np.arange(len(vectors)), Flat())


def test_authors_scale_is_that_of_their_equation():
    """Subtract the mean, project on all right singular vectors, divide by s + 1e-5; signs of directions are free."""
    vectors = correlated()
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    _, s, turned = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ turned.T / (s + 1e-5)
    found = Whiten(scale="authors").fit(embeddings(vectors), Run()).transform(vectors)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=2e-5)


def test_unit_scale_gives_the_unit_matrix_as_covariance():
    vectors = correlated()
    found = Whiten().fit(embeddings(vectors), Run()).transform(vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(found.T.astype(np.float64) @ found / len(found), np.eye(12), atol=1e-4)


def test_scales_differ_by_the_root_of_the_number_of_vectors():
    vectors = correlated()
    unit, authors = (Whiten(scale=s).fit(embeddings(vectors), Run()).transform(vectors) for s in ("unit", "authors"))
    np.testing.assert_allclose(unit, authors * np.sqrt(300), rtol=1e-4, atol=1e-4)


def test_whitened_distances_do_not_see_a_linear_map():
    vectors = correlated()
    mixed = (vectors @ np.random.default_rng(5).normal(size=(12, 12))).astype(np.float32)
    distances = []
    for each in (vectors, mixed):
        white = Whiten().fit(embeddings(each), Run()).transform(each)
        distances.append(np.linalg.norm(white[:20, None] - white[None, :20], axis=2))
    np.testing.assert_allclose(distances[0], distances[1], rtol=1e-2, atol=1e-2)


def test_directions_without_spread_are_left_out():
    vectors = correlated()
    vectors[:, 3] = vectors[:, 4]
    vectors[:, 5] = 2.5
    encoder = Whiten().fit(embeddings(vectors), Run())
    assert encoder.dim == 10
    assert np.abs(encoder.transform(vectors)).max() < 20
    few = Whiten().fit(embeddings(correlated(6)), Run())
    assert few.dim == 5


def test_other_rows_are_whitened_with_the_statistics_of_training():
    encoder = Whiten().fit(embeddings(correlated()), Run())
    moved = encoder.transform(correlated(seed=0) + 1)
    assert np.abs(moved.mean(0)).max() > 0.1


def test_it_is_post_processing_and_survives_saving():
    rng = np.random.default_rng(0)
    pixels = rng.random((40, 3, 2, 2)).astype(np.float32)
    images = ImageSet(pixels, np.arange(40), np.arange(40), ImageSpec((2, 2), 3, (0, 1)))
    vectors = Flat().embed(images, Run())
    before = vectors.copy()
    encoder = Whiten().fit(embeddings(vectors), Run())
    np.testing.assert_array_equal(vectors, before)
    assert isinstance(encoder, PostProcessing)
    assert isinstance(encoder.base, Flat)
    assert encoder.dim == 12
    arrays, meta = encoder.to_arrays()
    again = Whitened.from_arrays(arrays, meta, {"embeddings": embeddings(vectors)})
    np.testing.assert_array_equal(again.embed(images, Run()), encoder.embed(images, Run()))
    np.testing.assert_array_equal(encoder.embed(images, Run()), encoder.transform(vectors))


def test_errors_say_what_to_do():
    with pytest.raises(DataError, match=r"^whiten: found vectors \(1, 12\); expected \(n, e\) with at least two rows"):
        Whiten().fit(embeddings(correlated(1)), Run())
    with pytest.raises(DataError, match=r"^whiten: found vectors \(4, 2, 3\); expected \(n, e\)"):
        Whiten().fit(embeddings(np.zeros((4, 2, 3), np.float32)), Run())
    with pytest.raises(DataError, match=r"^whiten: found equal vectors throughout; expected some spread"):
        Whiten().fit(embeddings(np.ones((4, 3), np.float32)), Run())
    broken = correlated(10)
    broken[2, 2] = np.nan
    with pytest.raises(DataError, match=r"^whiten: found NaN or infinity in the vectors; expected finite numbers"):
        Whiten().fit(embeddings(broken), Run())
