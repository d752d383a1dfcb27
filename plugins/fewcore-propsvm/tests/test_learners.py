"""The learners: what they make of vectors, parts and labels, and how they refuse what they cannot use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from fewcore import DataError, Embeddings, ImageSet, ImageSpec, Partitions, Predictions, Run, Target
from fewcore_propsvm.adasyn import oversampled
from fewcore_propsvm.clustering import Clustering
from fewcore_propsvm.clustering_rf import ClusteringRF
from fewcore_propsvm.clustering_svm import ClusteringSVM
from fewcore_propsvm.forest import Forest, forest_arrays
from fewcore_propsvm.orient import Orient
from fewcore_propsvm.proportion_svm import ProportionSVM
from fewcore_propsvm.random_forest import RandomForest
from fewcore_propsvm.rows import Scaling
from fewcore_propsvm.supervised_svm import SupervisedSVM


class Pixels:
    """An encoder whose vectors are the images themselves."""

    dim = 4

    def embed(self, images, run):
        return images.images.reshape(len(images), -1).astype(np.float32)


def images_of(vectors, labels, k=2):
    n = len(vectors)
    spec = ImageSpec((1, 1), vectors.shape[1], (-10, 10))
    target = Target("class", np.asarray(labels), tuple("abcdefg"[:k]))
    pixels = np.asarray(vectors, np.float32)[..., None, None]
    return ImageSet(pixels, np.arange(n) + 9, np.arange(n), spec, {"class": target}, {}, "class")


def given(n=60, gap=1.5, k=2, seed=0):
    """Images of k clouds, their embeddings, and the partition by the nearest of the clouds' centres."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % k)
    centres = gap * np.eye(4)[:k] * 2
    vectors = (centres[labels] + rng.normal(size=(n, 4))).astype(np.float32)
    images = images_of(vectors, labels, k)
    parts = ((vectors[:, None] - centres) ** 2).sum(2).argmin(1)
    return images, Embeddings(vectors, images.ids, Pixels()), Partitions(parts[None], images.ids)


def accuracy(model, images):
    scores = model.predict(replace(images, targets={}), Run()).scores
    assert scores.shape == (len(images), len(images.class_names))
    return (scores.argmax(1) == images.labels).mean()


BLIND = [
    ProportionSVM(restarts=2),
    ProportionSVM(solver="convex"),
    ProportionSVM(kernel="rbf", restarts=2),
    Clustering(),
    ClusteringSVM(),
    ClusteringRF(trees=20),
]
SUPERVISED = [
    SupervisedSVM(),
    SupervisedSVM(kernel="rbf", adasyn=True),
    RandomForest(trees=20),
    RandomForest(adasyn=True, trees=9),
]


@pytest.mark.parametrize("learner", BLIND, ids=str)
def test_oriented_clusters_are_classes(learner):
    images, embeddings, partitions = given(40, gap=2.0)
    swapped = Partitions(1 - partitions.parts, partitions.ids)
    for parts in (partitions, swapped):
        model = learner.learn(embeddings, parts, Run())
        assert accuracy(Orient().learn(model, images, Run()), images) > 0.85


@pytest.mark.parametrize("learner", SUPERVISED, ids=str)
@pytest.mark.parametrize("k", [2, 3])
def test_labels_teach_classes(learner, k):
    images, embeddings, _ = given(90, k=k)
    images = images_of(embeddings.vectors, np.where(np.arange(90) % 10 == 0, -1, images.labels), k)
    new, _, _ = given(200, k=k, seed=1)
    labels = images.labels.copy()
    labels[:30][labels[:30] == 0] = -1  # fewer of one class
    model = learner.learn(images_of(embeddings.vectors, labels, k), embeddings, Run())
    assert accuracy(model, new) > 0.8


def test_pure_proportions_are_clustering_svm():
    _, embeddings, partitions = given()
    ours = ProportionSVM(proportions="pure", restarts=2, C_p=1e3).learn(embeddings, partitions, Run())
    theirs = ClusteringSVM().learn(embeddings, partitions, Run())
    device = torch.device("cpu")
    np.testing.assert_allclose(
        ours.scores(embeddings.vectors, device), theirs.scores(embeddings.vectors, device), atol=1e-9
    )


def test_the_linear_machine_is_that_of_scikit_learn():
    images, embeddings, _ = given(80, gap=0.7)
    found = SupervisedSVM(C=0.3).learn(images, embeddings, Run()).scores(embeddings.vectors, torch.device("cpu"))
    x = StandardScaler().fit_transform(np.asarray(embeddings.vectors, np.float64))
    peer = SVC(C=0.3, kernel="linear", tol=1e-9).fit(x, images.labels)
    np.testing.assert_allclose(found[:, 1], peer.decision_function(x), atol=1e-6)
    np.testing.assert_array_equal(found[:, 0], -found[:, 1])


def test_centroids_are_means_of_parts():
    images, embeddings, partitions = given()
    scores = Clustering().learn(embeddings, partitions, Run()).predict(images, Run()).scores
    for i in (0, 7):
        for c in range(2):
            mean = embeddings.vectors[partitions.parts[0] == c].astype(float).mean(0)
            assert scores[i, c] == pytest.approx(-((embeddings.vectors[i] - mean) ** 2).sum())


@pytest.mark.parametrize("k", [2, 4])
def test_a_forest_of_arrays_is_that_of_scikit_learn(k):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 5)).astype(np.float32), rng.integers(0, k, 200)
    peer = RandomForestClassifier(15, random_state=0).fit(x, y)
    forest = Forest(Pixels(), forest_arrays(peer, k))
    new = rng.normal(size=(50, 5))
    np.testing.assert_allclose(forest.probabilities(new), peer.predict_proba(new.astype(np.float32)), atol=1e-12)
    again = Forest.from_arrays(*forest.to_arrays(), {"embeddings": Embeddings(x, np.arange(200), Pixels())})
    np.testing.assert_array_equal(again.probabilities(new), forest.probabilities(new))
    absent = forest_arrays(RandomForestClassifier(3, random_state=0).fit(x, np.where(y == 1, 2, 0)), 3)
    assert (Forest(Pixels(), absent).probabilities(new)[:, 1] == 0).all()


@pytest.mark.parametrize("k", [2, 3])
def test_orient_finds_any_order_of_the_columns(k):
    images, _, _ = given(30, k=k)

    class Shuffled:
        def predict(self, seen, run):
            assert not seen.targets
            order = np.roll(np.arange(k), 1)
            return Predictions(seen.ids, scores=np.eye(k)[order[images.labels]].astype(np.float32))

    found = Orient().learn(Shuffled(), images, Run())
    assert accuracy(found, images) == 1
    again = type(found).from_arrays(*found.to_arrays(), {"start": Shuffled()})
    assert accuracy(again, images) == 1


def test_orient_is_the_best_of_all_orders_and_ignores_unknown_classes():
    rng = np.random.default_rng(0)
    images, _, _ = given(40, k=2)
    scores = rng.normal(size=(40, 2))

    class Noise:
        def predict(self, seen, run):
            return Predictions(seen.ids, scores=scores)

    labels = np.where(np.arange(40) < 15, images.labels, -1)
    found = Orient().learn(Noise(), images_of(images.images[..., 0, 0], labels), Run())
    said = found.predict(images, Run()).scores.argmax(1)
    right = (said == labels)[:15].mean()
    assert right >= 0.5


@pytest.mark.parametrize("learner", BLIND, ids=str)
def test_rows_in_no_part_are_left_out(learner):
    images, embeddings, partitions = given()
    parts = partitions.parts.copy()
    parts[0, :6] = -1
    spoilt = embeddings.vectors.copy()
    spoilt[:6] = 1e3
    one = learner.learn(Embeddings(spoilt, images.ids, Pixels()), Partitions(parts, images.ids), Run())
    alone = ids = images.ids[6:]
    kept = Partitions(partitions.parts[:, 6:], ids)
    other = learner.learn(Embeddings(embeddings.vectors[6:], alone, Pixels()), kept, Run())
    np.testing.assert_allclose(one.predict(images, Run()).scores, other.predict(images, Run()).scores, atol=1e-6)


@pytest.mark.parametrize("learner", BLIND, ids=str)
def test_more_than_two_parts_with_gaps_in_their_numbers(learner):
    images, embeddings, partitions = given(60, k=3)
    parts = Partitions(partitions.parts.astype(np.int16) * 2, partitions.ids)
    scores = learner.learn(embeddings, parts, Run()).predict(images, Run()).scores
    assert scores.shape == (60, 2 if isinstance(learner, ProportionSVM) else 3)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("learner", BLIND, ids=str)
def test_constant_features_and_two_rows(learner):
    vectors = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    vectors[:, 1:3] = 7
    for n in (12, 2):
        ids = np.arange(n) + 9
        parts = Partitions(np.arange(n)[None] % 2, ids)
        for x in (vectors[:n], np.ones((n, 4), np.float32)):
            model = learner.learn(Embeddings(x, ids, Pixels()), parts, Run())
            assert np.isfinite(model.predict(images_of(x, np.zeros(n, int)), Run()).scores).all()


@pytest.mark.parametrize("learner", BLIND, ids=str)
def test_blind_learners_refuse_what_they_cannot_use(learner):
    images, embeddings, partitions = given()
    name = {ProportionSVM: "proportion-svm", Clustering: "clustering", ClusteringSVM: "clustering-svm"}.get(
        type(learner), "clustering-rf"
    )
    vectors = embeddings.vectors.copy()
    vectors[3, 1] = np.nan
    message = f"{name}: found NaN or infinity in 1 of 60 vectors, first in row 3; expected finite numbers"
    with pytest.raises(DataError, match=message):
        learner.learn(Embeddings(vectors, images.ids, Pixels()), partitions, Run())
    with pytest.raises(DataError, match=rf"{name}: found vectors \(60, 1, 4\); expected \(n, e\)"):
        learner.learn(Embeddings(vectors[:, None], images.ids, Pixels()), partitions, Run())
    alone = Partitions(np.zeros((1, 60), np.int64), images.ids)
    with pytest.raises(DataError, match=f"{name}: found 1 part with images in partition 0; expected at least two"):
        learner.learn(embeddings, alone, Run())
    with pytest.raises(DataError, match=f"{name}: found 1 partitions; expected more than 2"):
        replace(learner, partition=2).learn(embeddings, partitions, Run())
    with pytest.raises(DataError, match=f"{name}: found embeddings and partitions of different rows"):
        learner.learn(embeddings, Partitions(partitions.parts, images.ids + 1), Run())


@pytest.mark.parametrize("learner", [SupervisedSVM(), RandomForest(trees=3)], ids=str)
def test_supervised_learners_refuse_one_class(learner):
    images, embeddings, _ = given()
    name = "svm" if isinstance(learner, SupervisedSVM) else "random-forest"
    one = images_of(embeddings.vectors, np.where(images.labels == 0, 0, -1))
    message = rf"{name}: found training images of one class \('a'\) among 30 with a known class; expected at least two"
    with pytest.raises(DataError, match=message):
        learner.learn(one, embeddings, Run())
    with pytest.raises(DataError, match=f"{name}: found embeddings and images of different rows"):
        learner.learn(images, Embeddings(embeddings.vectors, images.ids + 1, Pixels()), Run())


def test_orient_refuses_what_it_cannot_use():
    images, embeddings, partitions = given(k=3)
    model = ProportionSVM(restarts=1).learn(embeddings, partitions, Run())
    message = r"orient: found scores \(60, 2\) of the model to orient; expected \(n, 3\), a column for each class"
    with pytest.raises(DataError, match=message):
        Orient().learn(model, images, Run())
    unknown = images_of(embeddings.vectors, np.full(60, -1))
    with pytest.raises(DataError, match="orient: found no training image of a known class; expected at least one"):
        Orient().learn(model, unknown, Run())


def test_adasyn_adds_to_the_smallest_class_only():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    y = np.where(np.arange(80) < 60, 0, 1)
    more, kinds = oversampled("svm", x, y, np.random.default_rng(0))
    assert (kinds == 0).sum() == 60
    assert abs((kinds == 1).sum() - 60) < 10
    np.testing.assert_array_equal(more[:80], x)
    own = x[60:]
    for made in more[80:83]:  # each lies between two of its class
        lines = [
            np.linalg.norm(np.cross(b - a, a - made)) / np.linalg.norm(b - a)
            for a in own
            for b in own
            if (a != b).any()
        ]
        assert min(lines) < 1e-8
    same = oversampled("svm", x[20:60], np.arange(40) % 2, np.random.default_rng(0))
    assert len(same[0]) == 40


@pytest.mark.parametrize("small", [1, 3, 20])
def test_adasyn_says_where_it_cannot_be_done(small):
    rng = np.random.default_rng(0)
    y = np.where(np.arange(80) < 80 - small, 0, 1)
    x = rng.normal(size=(80, 3)) + 100 * y[:, None]  # far away: no neighbour of another class
    message = rf"svm: found that ADASYN cannot be done with {small} images of the smallest of 2 classes \(80 in all\): "
    with pytest.raises(DataError, match=message):
        oversampled("svm", x, y, rng)


def test_scaling_is_that_of_the_training_rows():
    x = np.random.default_rng(0).normal(3, 2, size=(50, 3))
    x[:, 2] = 5
    scaled = Scaling.of(x, True)(x)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(0), [1, 1, 0], atol=1e-12)
    np.testing.assert_array_equal(Scaling.of(x, False)(x), x)


def test_unscaled_features_make_another_machine():
    _, embeddings, partitions = given()
    vectors = embeddings.vectors * np.float32([1, 1, 1, 30])
    wide = Embeddings(vectors, embeddings.ids, Pixels())
    one, other = (ClusteringSVM(standardise=s).learn(wide, partitions, Run()) for s in (True, False))
    device = torch.device("cpu")
    assert np.abs(one.scores(vectors, device) - other.scores(vectors, device)).max() > 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("solver", ["alternating", "convex"])
def test_cuda_agrees_with_the_cpu(solver, kernel):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    images, embeddings, partitions = given(200, gap=0.8)
    learner = ProportionSVM(solver=solver, kernel=kernel, restarts=2)
    one, other = (learner.learn(embeddings, partitions, Run(0, d)).predict(images, Run(0, d)) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-8)
