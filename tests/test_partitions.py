"""The partitioners that compute nothing."""

import numpy as np
import pytest
from scipy import stats

from fewcore import DataError, Embeddings, ImageSet, ImageSpec, Partitions, PluginError, Run, Target
from fewcore.builtin.partitions import Labels, Own, Random, Union


def images(hidden=False, n=12):
    classes = Target("class", np.array([0, 1, -1] * (n // 3)), ("cat", "dog"))
    colour = Target("class", np.arange(n) % 4, ("red", "green", "blue", "grey"))
    masks = Target("masks", np.zeros((n, 1, 2, 2), np.float32), ("head",))
    targets = {} if hidden else {"animal": classes, "colour": colour, "outline": masks}
    spec = ImageSpec((2, 2), 1, (0, 255))
    return ImageSet(np.zeros((n, 1, 2, 2), np.uint8), np.arange(n) + 100, np.arange(n), spec, targets, target="animal")


class Sign:
    dim = 1

    def embed(self, images, run):
        return np.zeros((len(images), 1), np.float32)

    def assign(self, vectors):
        return (vectors[:, 0] > 0).astype(int)


class Plain(Sign):
    assign = None


def test_labels_are_the_oracle():
    made = Labels().partition(images(), Run())
    np.testing.assert_array_equal(made.parts, [[0, 1, -1] * 4])
    assert made.names == ("cat", "dog")
    np.testing.assert_array_equal(made.ids, images().ids)
    other = Labels(target="colour").partition(images(), Run())
    assert other.names == ("red", "green", "blue", "grey")


def test_labels_need_a_class_target():
    with pytest.raises(DataError) as error:
        Labels(target="outline").partition(images(), Run())
    assert str(error.value) == "labels: target 'outline' is no class target here; expected one of ['animal', 'colour']"
    with pytest.raises(DataError, match="labels: found no class target"):
        Labels().partition(images(hidden=True), Run())


def test_random_is_uniform_and_seeded():
    made = Random(n_parts=200, n_partitions=500).partition(images(hidden=True, n=300), Run())
    assert made.parts.shape == (500, 300)
    assert made.parts.dtype == np.int16
    assert stats.chisquare(np.bincount(made.parts.ravel(), minlength=200)).pvalue > 1e-4
    again = Random(n_parts=200, n_partitions=500).partition(images(n=300), Run())
    np.testing.assert_array_equal(made.parts, again.parts)
    assert not np.array_equal(made.parts, Random(200, 500).partition(images(n=300), Run(1)).parts)


def test_own_takes_the_encoders_clusters():
    vectors = np.array([[1.0], [-1.0], [2.0]], np.float32)
    made = Own().partition(Embeddings(vectors, np.arange(3), Sign()), Run())
    np.testing.assert_array_equal(made.parts, [[1, 0, 1]])
    with pytest.raises(PluginError) as error:
        Own().partition(Embeddings(vectors, np.arange(3), Plain()), Run())
    assert str(error.value) == (
        "own: Plain has no clusters of its own; expected an encoder with assign(vectors) "
        "(use another partitioner, such as kmeans)"
    )


def test_union_weighs_partitioners_not_partitions():
    clusters = Partitions(np.zeros((4, 6), int), np.arange(6))
    known = Partitions(np.array([[0, 0, 1, 1, -1, -1]]), np.arange(6), names=("cat", "dog"))
    made = Union(share=(0.9, 0.1)).partition((clusters, known), Run())
    np.testing.assert_allclose(made.weights, [0.225] * 4 + [0.1])
    assert made.parts.shape == (5, 6)
    assert made.names == ()
    np.testing.assert_allclose(Union().partition((clusters, known), Run()).weights, [0.125] * 4 + [0.5])
    assert Union().partition((known, known), Run()).names == ("cat", "dog")


def test_union_refuses_other_rows_and_other_lengths():
    one, other = Partitions(np.zeros((1, 3), int), np.arange(3)), Partitions(np.zeros((1, 3), int), np.arange(3) + 1)
    with pytest.raises(DataError) as error:
        Union().partition((one, other), Run())
    assert str(error.value) == "union: partitioner 2 of from: stands on other rows than the first"
    with pytest.raises(DataError) as error:
        Union(share=(1.0,)).partition((one, one), Run())
    assert str(error.value) == "union: found 1 shares; expected 2, one for each in from:"
    with pytest.raises(ValueError, match=r"share: found \[0.5, 0.4\]; expected probabilities that sum to 1"):
        Union(share=(0.5, 0.4))
