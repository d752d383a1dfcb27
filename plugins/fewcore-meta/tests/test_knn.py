"""kNN: against a slow transcription and scikit-learn, ties, padding, tuning, saving."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from few_shot_samples import (
    Flat,
    Tasks,
    assert_padding_changes_nothing,
    assert_saved_answers_are_equal,
    draw,
    hidden,
    labelled,
    make_images,
    plain,
    vectors_of,
)

from fewcore import DataError, Embeddings, ImageSet, ImageSpec, PipelineError, Run, TaskBatch
from fewcore_meta.knn import Knn


def slow(support, labels, query, way, k):
    """Votes of the k nearest; a tie goes to the class whose nearest vector is nearer."""
    answers = []
    for x in query:
        distances = [float(np.sqrt(((x.astype(float) - s.astype(float)) ** 2).sum())) for s in support]
        order = sorted(range(len(support)), key=lambda i: (distances[i], i))[:k]
        votes = [sum(labels[i] == c for i in order) for c in range(way)]
        nearest = [min(d for d, label in zip(distances, labels, strict=True) if label == c) for c in range(way)]
        answers.append(min(range(way), key=lambda c: (-votes[c], nearest[c], c)))
    return np.array(answers)


def fit(images, k=1, **given):
    return Knn(n_neighbours=k).meta_train(vectors_of(images), Run(), **given)


@pytest.mark.parametrize(("way", "shot", "k"), [(5, 1, 1), (5, 1, 3), (3, 5, 4), (2, 5, 2), (5, 5, 7)])
def test_equals_a_slow_transcription(way, shot, k):
    images = make_images()
    batch = draw(images, 20, way, shot)
    scores = fit(images, k).classify(hidden(batch), images, Run())
    vectors = vectors_of(images).vectors
    for i in range(len(batch)):
        want = slow(vectors[batch.support[i]], batch.support_labels[i], vectors[batch.query[i]], way, k)
        np.testing.assert_array_equal(scores[i].argmax(-1), want)


def test_equals_scikit_learn_where_no_vote_is_tied():
    from sklearn.neighbors import KNeighborsClassifier

    images = make_images(spread=0.7)
    batch = draw(images, 30, 5, 5)
    scores = fit(images, 3).classify(hidden(batch), images, Run())
    vectors = vectors_of(images).vectors
    compared = 0
    for i in range(len(batch)):
        peer = KNeighborsClassifier(3).fit(vectors[batch.support[i]], batch.support_labels[i])
        shares = peer.predict_proba(vectors[batch.query[i]])
        clear = shares.max(1) > 1 / 3 + 1e-9
        np.testing.assert_array_equal(scores[i].argmax(-1)[clear], shares.argmax(1)[clear])
        assert (scores[i] - shares < 0.5 / 3 + 1e-6).all()
        assert (scores[i] - shares >= -1e-6).all()
        compared += clear.sum()
    assert compared > 500


def test_scores_rank_queries_at_one_neighbour():
    # On a line: the nearer to class 1 and the farther from class 0, the higher its score.
    line = np.array([0.0, 10.0, 6.0, 7.0, 8.0, 9.0], dtype=np.float32)[:, None, None, None]
    images = ImageSet(line, np.arange(6), np.arange(6), ImageSpec((1, 1), 1, (0, 10)))
    batch = TaskBatch(
        np.array([[0, 1]]), np.array([[0, 1]]), np.array([[2, 3, 4, 5]]), np.full((1, 4), -1), np.zeros(1, int), 2, 1
    )
    scores = fit(images).classify(batch, images, Run())[0]
    assert (np.diff(scores[:, 1] - scores[:, 0]) > 0).all()


def test_equal_distances_go_to_the_smallest_label():
    line = np.array([-1.0, 1.0, 0.0], dtype=np.float32)[:, None, None, None]
    images = ImageSet(line, np.arange(3), np.arange(3), ImageSpec((1, 1), 1, (0, 1)))
    for first, second in ((0, 1), (1, 0)):
        batch = TaskBatch(
            np.array([[first, second]]), np.array([[0, 1]]), np.array([[2]]), np.array([[-1]]), np.zeros(1, int), 2, 1
        )
        assert fit(images).classify(batch, images, Run())[0, 0].argmax() == 0


def test_padding_scores_nothing_and_changes_nothing():
    images = make_images()
    batch = draw(images, 4, 5, 1)
    assert_padding_changes_nothing(fit(images), batch, images)


def test_validation_tasks_choose_an_odd_number_by_way_and_shot():
    images = make_images(n_classes=4, spread=2.0, seed=3)
    batches = [draw(images, 60, 2, 5), draw(images, 60, 2, 1)]
    model = fit(images, validation=images, validation_tasks=Tasks(*batches))
    vectors = vectors_of(images).vectors
    means = []
    for k in (1, 3, 5, 7, 9):
        right = [
            slow(vectors[s], sl, vectors[q], 2, k) == ql
            for s, sl, q, ql in zip(
                batches[0].support, batches[0].support_labels, batches[0].query, batches[0].query_labels, strict=True
            )
        ]
        means.append(np.mean(right))
    assert model.table == {(2, 5): (1, 3, 5, 7, 9)[int(np.argmax(means))], (2, 1): 1}
    assert model.table[2, 5] > 1
    # A test task of another shot takes what was tuned for the nearest, at most its support.
    assert model.n_neighbours(2, 4, 8) == min(model.table[2, 5], 8)
    assert model.n_neighbours(2, 4, 2) == 2
    assert model.n_neighbours(2, 1, 2) == 1


def test_validation_tasks_without_rows_are_refused():
    images = make_images()
    with pytest.raises(
        PipelineError,
        match=r"validation_tasks: found tasks without the images that they count; expected validation rows \(give",
    ):
        fit(images, validation_tasks=Tasks(draw(images, 2, 2, 1)))


def test_saved_model_and_predictor_answer_bit_for_bit():
    images = make_images()
    batch = hidden(draw(images, 6, 5, 5))
    tune = draw(images, 20, 5, 5, seed=1)
    model = fit(images, validation=images, validation_tasks=Tasks(tune))
    assert_saved_answers_are_equal(model, batch, images, {"embeddings": vectors_of(images)})


def test_adapt_passes_over_unknown_labels_and_refuses_an_empty_class():
    images = make_images()
    model = fit(images)
    rows = np.array([0, 12, 24])
    got = model.adapt(labelled(images, rows, [0, 1, -1], 2), Run()).predict(plain(images, rows), Run())
    want = model.adapt(labelled(images, rows[:2], [0, 1], 2), Run()).predict(plain(images, rows), Run())
    np.testing.assert_array_equal(got.scores, want.scores)
    with pytest.raises(DataError, match=r"^support: found no image of k1; expected one or more of each class$"):
        model.adapt(labelled(images, rows[:1], [0], 2), Run())
    with pytest.raises(DataError, match=r"^support: found 1 classes; expected at least two$"):
        model.adapt(labelled(images, rows[:1], [0], 1), Run())


def test_several_vectors_an_image_are_refused():
    class Several(Flat):
        def embed(self, images, run):
            return np.zeros((len(images), 3, 2), np.float32)

    images = make_images()
    model = Knn().meta_train(Embeddings(Several().embed(images, None), images.ids, Several()), Run())
    with pytest.raises(
        DataError, match=r"embeddings: found 3 vectors an image, shape \(96, 3, 2\); expected one, \(n, e\)"
    ):
        model.classify(draw(images, 1, 2, 1), images, Run())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    images = make_images()
    batch = hidden(draw(images, 50, 5, 5))
    on_cpu, on_gpu = (fit(images, 3).classify(batch, images, Run(device=d)) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-6)
