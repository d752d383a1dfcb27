"""Prototype classifiers: each against a slow transcription, limits, padding, tasks on their own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from fewcore_meta.neighbours import mutual_neighbours
from fewcore_meta.prototype_classifier import SINKHORN_STEPS, PrototypeClassifier

MODES = [
    {},
    {"temperature": 0.5},
    {"distance": "cosine", "temperature": 0.1},
    {"queries": "together"},
    {"queries": "balanced"},
    {"queries": "balanced", "distance": "cosine", "temperature": 0.2},
    {"tune_steps": 5, "tune_rate": 0.1},
    {"tune_steps": 5, "tune_rate": 0.1, "distance": "cosine", "temperature": 0.5},
]


def tasks(t=3, way=3, shot=2, n_query=4, dim=5, spread=1.0, seed=0):
    """Features around one centre a class: support (t, s, e), labels (t, s), queries (t, q, e), their labels (t, q)."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(t, way, dim, generator=g)
    labels, query_labels = (torch.arange(way).repeat_interleave(n).expand(t, -1) for n in (shot, n_query))

    def around(which):
        return centres.gather(1, which[..., None].expand(-1, -1, dim)) + spread * torch.randn(
            *which.shape, dim, generator=g
        )

    return around(labels), labels, around(query_labels), query_labels


def scores(classifier, support, labels, query, known=None, way=3):
    known = torch.ones(query.shape[:2], dtype=torch.bool) if known is None else known
    return classifier.scores(support, labels, query, known, way)


def slow(classifier, support, labels, query, way):
    """One task's scores, number by number in float64; assignments are made balanced by scaling a matrix of shares."""
    c = classifier
    support, query = support.double().numpy(), query.double().numpy()
    if c.distance == "cosine":
        support, query = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (support, query))
    means = np.stack([support[labels.numpy() == k].mean(0) for k in range(way)])

    def logits(means):
        made = np.empty((len(query), way))
        for i, x in enumerate(query):
            for k, mean in enumerate(means):
                if c.distance == "cosine":
                    made[i, k] = x @ mean / np.linalg.norm(mean) / c.temperature
                else:
                    made[i, k] = -((x - mean) ** 2).sum() / c.temperature
        return made

    if c.queries == "alone":
        return logits(means)

    def shares(means):
        made = np.exp(logits(means))
        made /= made.sum(1, keepdims=True)
        for _ in range(SINKHORN_STEPS if c.queries == "balanced" else 0):
            made *= len(query) / way / made.sum(0)
            made /= made.sum(1, keepdims=True)
        return made

    for _ in range(c.refine_steps):
        p = shares(means)
        means = np.stack(
            [
                (support[labels.numpy() == k].sum(0) + (p[:, k, None] * query).sum(0))
                / ((labels.numpy() == k).sum() + p[:, k].sum())
                for k in range(way)
            ]
        )
    return np.log(shares(means))


@pytest.mark.parametrize("mode", MODES[:6], ids=str)
def test_equals_a_slow_transcription(mode):
    classifier = PrototypeClassifier(**mode)
    support, labels, query, _ = tasks()
    made = scores(classifier, support, labels, query)
    for i in range(3):
        np.testing.assert_allclose(made[i].numpy(), slow(classifier, support[i], labels[i], query[i], 3), atol=2e-4)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_tuning_trains_a_linear_layer_that_begins_as_the_prototypes(distance):
    support, labels, query, _ = tasks()
    classifier = PrototypeClassifier(distance, 0.5, tune_steps=7, tune_rate=0.05)
    made = scores(classifier, support, labels, query)
    if distance == "cosine":
        support, query = functional.normalize(support, dim=-1), functional.normalize(query, dim=-1)
    for i in range(3):
        means = torch.stack([support[i][labels[i] == k].mean(0) for k in range(3)])
        layer = torch.nn.Linear(5, 3)
        with torch.no_grad():
            if distance == "cosine":
                layer.weight.copy_(functional.normalize(means, dim=-1) / 0.5)
                layer.bias.zero_()
            else:
                layer.weight.copy_(2 * means / 0.5)
                layer.bias.copy_(-means.square().sum(1) / 0.5)
        adam = torch.optim.Adam(layer.parameters(), lr=0.05)
        for _ in range(7):
            adam.zero_grad()
            functional.cross_entropy(layer(support[i]), labels[i]).backward()
            adam.step()
        torch.testing.assert_close(made[i], layer(query[i]).detach(), atol=1e-4, rtol=1e-4)


def test_tuning_that_goes_nowhere_answers_as_the_prototypes():
    support, labels, query, _ = tasks()
    still = scores(PrototypeClassifier(tune_steps=3, tune_rate=0.0), support, labels, query)
    plain = scores(PrototypeClassifier(), support, labels, query)
    # The squared length of a query is the same for all classes, and the linear layer leaves it out.
    torch.testing.assert_close(still.log_softmax(-1), plain.log_softmax(-1), atol=1e-5, rtol=1e-5)


def test_balanced_shares_give_each_class_as_many_queries():
    support, labels, query, _ = tasks(way=4, n_query=5)
    made = scores(PrototypeClassifier(queries="balanced"), support, labels, query, way=4).exp()
    torch.testing.assert_close(made.sum(1), torch.full((3, 4), 5.0), atol=0.02, rtol=0)
    torch.testing.assert_close(made.sum(2), torch.ones(3, 20))


def test_queries_together_correct_a_prototype_and_alone_do_not():
    # On a line: one support image of class 0 is far from its class's queries; together they pull the mean to them.
    support, labels = torch.tensor([[[0.0], [10.0]]]), torch.tensor([[0, 1]])
    query = torch.tensor([[[4.0], [4.2], [4.4], [5.2], [10.0], [10.2]]])
    answers = {}
    for queries in ("alone", "together"):
        answers[queries] = scores(PrototypeClassifier(queries=queries), support, labels, query, way=2).argmax(-1)[0]
    assert answers["alone"].tolist() == [0, 0, 0, 1, 1, 1]
    assert answers["together"].tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_padding_and_other_tasks_change_nothing(mode):
    classifier = PrototypeClassifier(**mode)
    support, labels, query, _ = tasks()
    known = torch.ones(3, 12, dtype=torch.bool)
    known[1, -3:] = known[2, 0] = False
    made = scores(classifier, support, labels, query, known)
    assert made.isfinite().all()
    for i in range(3):
        alone = scores(classifier, support[i : i + 1], labels[i : i + 1], query[i : i + 1, known[i]])
        torch.testing.assert_close(made[i, known[i]], alone[0], atol=1e-4, rtol=1e-4)


def test_a_task_without_queries_is_no_error():
    support, labels, query, _ = tasks()
    for mode in MODES:
        assert scores(PrototypeClassifier(**mode), support, labels, query[:, :0]).shape == (3, 0, 3)
        nothing = torch.zeros(3, 12, dtype=torch.bool)
        assert scores(PrototypeClassifier(**mode), support, labels, query, nothing).isfinite().all()


def test_knowing_more_of_the_queries_helps():
    support, labels, query, wanted = tasks(t=300, way=5, shot=1, n_query=5, dim=8, spread=0.7)
    right = {}
    for queries in ("alone", "together", "balanced"):
        made = scores(PrototypeClassifier(queries=queries), support, labels, query, way=5)
        right[queries] = float((made.argmax(-1) == wanted).float().mean())
    assert right["alone"] + 0.03 < right["together"] < right["balanced"]


def test_mutual_neighbours_equal_a_loop():
    vectors = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    made = mutual_neighbours(vectors, 4)
    unit = functional.normalize(vectors, dim=-1).double()
    cosines = [
        [-math.inf if i == j else float(unit[i] @ unit[j]) for j in range(40)]  # no vector is its own neighbour
        for i in range(40)
    ]
    nearest = [sorted(range(40), key=lambda j, i=i: -cosines[i][j])[:4] for i in range(40)]
    for i in range(40):
        assert made[i].tolist() == [j if i in nearest[j] else -1 for j in nearest[i]]
    assert (made >= 0).any()
    assert (made < 0).any()
