"""The nearest labelled vector of each class."""

import numpy as np
import pytest
from few_shot_samples import two_class_images

from fewcore import DataError, Embeddings, Run
from fewcore_meta.nearest_neighbour import NearestNeighbour


class Pixels:
    dim = 4

    def embed(self, images, run):
        return images.images.reshape(len(images), -1)[:, :4].astype(np.float32)


def embedded(images):
    return Embeddings(Pixels().embed(images, None), images.ids, Pixels())


@pytest.mark.parametrize("n_neighbours", [1, 3, 100])
def test_scores_are_the_mean_distances_to_the_nearest_of_a_class(n_neighbours):
    images, others = two_class_images(20, seed=0), two_class_images(9, seed=1)
    labels = images.labels.copy()
    found = NearestNeighbour(n_neighbours).learn(images, embedded(images), Run()).predict(others, Run())
    mine, theirs = (Pixels().embed(one, None) for one in (images, others))
    for i, vector in enumerate(theirs):
        for k in (0, 1):
            distances = sorted(float(np.sqrt(((vector - own) ** 2).sum())) for own in mine[labels == k])
            assert found.scores[i, k] == pytest.approx(-np.mean(distances[:n_neighbours]), rel=1e-5)


def test_images_without_a_label_do_not_count_and_each_class_needs_one():
    images = two_class_images(20, seed=0)
    target = images.targets["class"]
    target.values[5:] = -1
    found = NearestNeighbour().learn(images, embedded(images), Run())
    assert len(found.labels) == 5
    target.values[target.values == 1] = -1
    with pytest.raises(DataError, match="no labelled image of malignant"):
        NearestNeighbour().learn(images, embedded(images), Run())


def test_vectors_that_are_not_finite_are_refused():
    images = two_class_images(20, seed=0)
    vectors = embedded(images)
    vectors.vectors[3, 1] = np.nan
    with pytest.raises(DataError, match="all finite"):
        NearestNeighbour().learn(images, vectors, Run())
