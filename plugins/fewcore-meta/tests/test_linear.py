"""Logistic regression of many tasks: against scikit-learn, limits, tuning, padding, saving."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from few_shot_samples import (
    Tasks,
    assert_padding_changes_nothing,
    assert_saved_answers_are_equal,
    draw,
    hidden,
    make_images,
    vectors_of,
)

from fewcore import NumericalError, Run
from fewcore_meta import logistic
from fewcore_meta.linear import Linear


def objective(support, labels, weights, bias, cost):
    logits = support @ weights + bias
    top = logits.max(1, keepdims=True)
    loss = (np.log(np.exp(logits - top).sum(1)) + top[:, 0] - logits[np.arange(len(labels)), labels]).sum()
    return cost * loss + 0.5 * (weights**2).sum()


def peer(support, labels, cost):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=cost, tol=1e-10, max_iter=20_000).fit(support, labels)


def fit(images, cost=1.0, **given):
    return Linear(default_c=cost).meta_train(vectors_of(images), Run(), **given)


@pytest.mark.parametrize("dim", [6, 40])
@pytest.mark.parametrize("cost", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("way", "shot"), [(5, 1), (3, 5), (8, 5)])
def test_equals_scikit_learn_in_objective_and_answers(way, shot, cost, dim):
    images = make_images(dim=dim)
    batch = draw(images, 12, way, shot)
    vectors = vectors_of(images).vectors
    support = torch.from_numpy(vectors[batch.support])
    weights, bias = logistic.fit(support, torch.from_numpy(batch.support_labels.copy()), way, cost)
    scores = fit(images, cost).classify(hidden(batch), images, Run())
    same = []
    for i in range(len(batch)):
        labels, rows = batch.support_labels[i], vectors[batch.support[i]].astype(float)
        model = peer(rows, labels, cost)
        ours = objective(rows, labels, weights[i].numpy(), bias[i].numpy(), cost)
        theirs = objective(rows, labels, model.coef_.T, model.intercept_, cost)
        np.testing.assert_allclose(ours, theirs, rtol=1e-7)
        same.append(model.predict(vectors[batch.query[i]]) == scores[i].argmax(-1))
    assert np.mean(same) > 0.999, np.mean(same)


def test_two_classes_equal_scikit_learn_at_twice_c():
    # Its single row w stands for the rows -w/2 and w/2, whose squares sum to half of w's.
    images = make_images()
    batch = draw(images, 10, 2, 5)
    scores = fit(images, 0.5).classify(hidden(batch), images, Run())
    vectors = vectors_of(images).vectors
    for i in range(len(batch)):
        model = peer(vectors[batch.support[i]].astype(float), batch.support_labels[i], 1.0)
        np.testing.assert_allclose(np.exp(scores[i]), model.predict_proba(vectors[batch.query[i]]), atol=1e-4)


def test_gradient_is_zero_where_it_stops_and_matches_differences():
    support = torch.randn(1, 7, 3, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([[0, 1, 2, 0, 1, 2, 2]])
    weights, bias = logistic.fit(support, labels, 3, 2.0)

    def value(w, b):
        return objective(support[0].numpy(), labels[0].numpy(), w, b, 2.0)

    w, b = weights[0].numpy(), bias[0].numpy()
    for index in np.ndindex(w.shape):
        step = np.zeros_like(w)
        step[index] = 1e-5
        assert abs(value(w + step, b) - value(w - step, b)) / 2e-5 < 1e-3
    assert abs(value(w, b + np.eye(3)[0] * 1e-5) - value(w, b - np.eye(3)[0] * 1e-5)) / 2e-5 < 1e-3


def test_without_information_the_answer_is_the_share_of_each_class():
    # Equal vectors: weights 0, biases the logarithms of the shares; penalised biases would not give this.
    support = torch.ones(1, 10, 4)
    labels = torch.tensor([[0] * 5 + [1] * 3 + [2] * 2])
    weights, bias = logistic.fit(support, labels, 3, 1.0)
    assert float(weights.abs().max()) == 0
    np.testing.assert_allclose(torch.softmax(bias, -1)[0].numpy(), [0.5, 0.3, 0.2], atol=1e-4)


def test_a_task_does_not_depend_on_the_others_of_its_batch():
    images = make_images()
    batch = hidden(draw(images, 12, 5, 3))
    model = fit(images, 10.0)
    whole = model.classify(batch, images, Run())
    np.testing.assert_allclose(model.classify(batch.part(4, 5), images, Run())[0], whole[4], rtol=1e-3, atol=1e-4)


def test_shifting_the_vectors_changes_nothing():
    images = make_images()
    moved = replace(images, images=images.images + np.float32(100))
    batch = hidden(draw(images, 5, 5, 2))
    np.testing.assert_allclose(
        fit(moved).classify(batch, moved, Run()), fit(images).classify(batch, images, Run()), atol=1e-3
    )


def test_no_convergence_is_told(monkeypatch):
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 2)
    images = make_images()
    with pytest.raises(
        NumericalError,
        match=r"^linear: found a relative gap of .* after 2 iterations at C = 1000.0; expected at most 1e-05 \(scale",
    ):
        fit(images, 1e3).classify(draw(images, 3, 5, 5), images, Run())


def test_validation_tasks_choose_c_by_way_and_shot():
    images = make_images(spread=2.0)
    tune = [draw(images, 40, 2, 5), draw(images, 40, 5, 1)]
    model = fit(images, validation=images, validation_tasks=Tasks(*tune))
    for batch in tune:
        means = []
        for cost in (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3):
            answers = fit(images, cost).classify(hidden(batch), images, Run()).argmax(-1)
            means.append((answers == batch.query_labels).mean())
        assert model.table[batch.n_way, batch.n_shot] == 10.0 ** (int(np.argmax(means)) - 3)
    assert model.cost(2, 4) == model.table[2, 5]
    assert model.cost(5, 2) == model.table[5, 1]
    assert fit(images).cost(5, 1) == 1.0


def test_padding_scores_nothing_and_changes_nothing():
    images = make_images()
    batch = draw(images, 4, 5, 1)
    assert_padding_changes_nothing(fit(images), batch, images)


def test_saved_model_and_predictor_answer_bit_for_bit():
    images = make_images()
    batch = hidden(draw(images, 6, 5, 2))
    model = fit(images, validation=images, validation_tasks=Tasks(draw(images, 20, 5, 2, seed=1)))
    assert_saved_answers_are_equal(model, batch, images, {"embeddings": vectors_of(images)}, atol=1e-3)


@pytest.mark.parametrize("grid", [(), (1.0, 0.0)])
def test_a_grid_of_other_than_positive_numbers_is_refused(grid):
    with pytest.raises(ValueError, match=r"^grid: found \[.*\]; expected one or more positive numbers$"):
        Linear(grid=grid)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    images = make_images()
    batch = hidden(draw(images, 50, 5, 5))
    on_cpu, on_gpu = (fit(images).classify(batch, images, Run(device=d)) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-3)
