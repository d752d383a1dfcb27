"""Cluster matching: against a slow transcription, ties, classes without a centroid, saving."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from few_shot_samples import (
    Flat,
    assert_padding_changes_nothing,
    assert_saved_answers_are_equal,
    draw,
    hidden,
    make_images,
    vectors_of,
)

from fewcore import DataError, Embeddings, ImageSet, ImageSpec, Partitions, Run, TaskBatch
from fewcore_meta.cluster_matching import ClusterMatching


def clusters(images, n=10, seed=0):
    parts = np.random.default_rng(seed).integers(-1, n, size=(2, len(images)))
    return Partitions(parts, images.ids)


def fit(images, partitions):
    return ClusterMatching().meta_train(vectors_of(images), partitions, Run())


def slow(vectors, parts, support, labels, query, way):
    """Name each centroid by plurality, then take the name of the nearest that has one."""
    centroids = [vectors[parts == c].mean(0) for c in range(parts.max() + 1) if (parts == c).any()]
    votes = [[0] * way for _ in centroids]
    for x, label in zip(support, labels, strict=True):
        votes[int(np.argmin([((x - c) ** 2).sum() for c in centroids]))][label] += 1
    names = [int(np.argmax(v)) if sum(v) else -1 for v in votes]
    answers = []
    for x in query:
        named = [(((x - c) ** 2).sum(), name) for c, name in zip(centroids, names, strict=True) if name >= 0]
        answers.append(min(named)[1])
    return np.array(answers), names


@pytest.mark.parametrize(("way", "shot"), [(2, 1), (5, 1), (3, 5)])
def test_equals_a_slow_transcription(way, shot):
    images = make_images()
    partitions = clusters(images)
    batch = draw(images, 20, way, shot)
    scores = fit(images, partitions).classify(hidden(batch), images, Run())
    vectors = vectors_of(images).vectors.astype(float)
    lost = 0
    for i in range(len(batch)):
        want, names = slow(
            vectors,
            partitions.parts[0],
            vectors[batch.support[i]],
            batch.support_labels[i],
            vectors[batch.query[i]],
            way,
        )
        np.testing.assert_array_equal(scores[i].argmax(-1), want)
        for missing in set(range(way)) - set(names):
            lost += 1
            assert (scores[i].argmin(-1) == missing).all() or len(set(range(way)) - set(names)) > 1
    assert lost or way < 5
    assert np.isfinite(scores).all()


def line(*points):
    values = np.array(points, dtype=np.float32)[:, None, None, None]
    return ImageSet(values, np.arange(len(points)), np.arange(len(points)), ImageSpec((1, 1), 1, (0, 1)))


def test_ties_go_to_the_smallest_label():
    # Centroids -1 and 1; both support images of the first task fall to the same one: label 0 takes it.
    images = line(-1.0, 1.0, -1.1, -0.9, 0.0)
    model = fit(images, Partitions(np.array([[0, 1, -1, -1, -1]]), images.ids))
    same = TaskBatch(np.array([[2, 3]]), np.array([[1, 0]]), np.array([[4]]), np.array([[-1]]), np.zeros(1, int), 2, 1)
    scores = model.classify(same, images, Run())[0, 0]
    assert scores.argmax() == 0
    np.testing.assert_allclose(scores, [-1, -(1 + 2 * 1)])
    # A query as far from one as from the other.
    for labels in ([0, 1], [1, 0]):
        apart = TaskBatch(
            np.array([[0, 1]]), np.array([labels]), np.array([[4]]), np.array([[-1]]), np.zeros(1, int), 2, 1
        )
        assert model.classify(apart, images, Run())[0, 0].argmax() == 0


def test_scores_are_minus_distances_to_the_nearest_centroid_of_each_class():
    images = line(0.0, 10.0, 20.0, 3.0)
    model = fit(images, Partitions(np.array([[0, 1, 2, -1]]), images.ids))
    batch = TaskBatch(
        np.array([[0, 1, 2]]), np.array([[0, 1, 1]]), np.array([[3]]), np.array([[-1]]), np.zeros(1, int), 2, 1
    )
    np.testing.assert_allclose(model.classify(batch, images, Run())[0, 0], [-3, -7])


def test_only_the_first_partition_counts_and_empty_parts_have_no_centroid():
    images = make_images()
    both = clusters(images)
    first = Partitions(np.where(both.parts[:1] >= 0, both.parts[:1] * 3, -1), images.ids)
    np.testing.assert_array_equal(fit(images, both).centroids, fit(images, first).centroids)


def test_padding_scores_nothing_and_changes_nothing():
    images = make_images()
    batch = draw(images, 4, 3, 1)
    assert_padding_changes_nothing(fit(images, clusters(images)), batch, images)


def test_saved_model_and_predictor_answer_bit_for_bit():
    images = make_images()
    batch = hidden(draw(images, 6, 3, 2))
    model = fit(images, clusters(images))
    assert_saved_answers_are_equal(model, batch, images, {"embeddings": vectors_of(images)})


def test_partitions_of_other_rows_are_refused():
    images = make_images()
    other = Partitions(np.zeros((1, 3), int), np.arange(3))
    with pytest.raises(
        DataError, match=r"^partitions: found the ids of 3 other rows; expected those of the 96 embeddings \(make both"
    ):
        fit(images, other)
    several = Embeddings(np.zeros((96, 2, 3), np.float32), images.ids, Flat())
    with pytest.raises(
        DataError, match=r"^embeddings: found shape \(96, 2, 3\); expected one vector an image, \(n, e\)$"
    ):
        ClusterMatching().meta_train(several, clusters(images), Run())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    images = make_images()
    batch = hidden(draw(images, 50, 5, 5))
    model = fit(images, clusters(images))
    on_cpu, on_gpu = (model.classify(batch, images, Run(device=d)) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-5)
