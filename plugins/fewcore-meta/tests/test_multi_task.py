"""Several tasks at once: a head for each, one trunk for all."""

import numpy as np
import pytest
import torch
from few_shot_samples import two_class_images

from fewcore import DataError, Interrupted, Partitions, Run, TaskBatch, auc
from fewcore.testing import ToyBackbone
from fewcore_meta.cluster_subsets import ClusterSubsets
from fewcore_meta.multi_task import MultiTask, MultiTaskPredictor, _Drawn


def tasks_of(images, **options):
    parts = (np.arange(len(images)) % 3).astype(np.int8)
    options = {"n_shot": 2, "n_query": 5, "swap_labels": False, **options}
    return ClusterSubsets(**options).tasks(Partitions(parts[None], images.ids), Run(0))


def learnt(run=None, tasks=None, **options):
    images, validation = two_class_images(40, seed=0), two_class_images(30, seed=1)
    options = {"epochs": 4, "learning_rate": 0.01, "batch_size": 8, **options}
    return MultiTask(**options).learn(ToyBackbone(), images, tasks or tasks_of(images), validation, run or Run(0))


def test_it_learns_and_keeps_the_best_epoch():
    found, validation = learnt(epochs=10), two_class_images(30, seed=1)
    scores = found.predict(validation, Run()).scores
    assert auc(scores[:, 1], validation.labels == 1) == pytest.approx(found.facts["score"])
    assert found.facts["score"] > 0.85
    again = MultiTaskPredictor.from_arrays(*found.to_arrays(), {"backbone": ToyBackbone()})
    np.testing.assert_array_equal(again.predict(validation, Run()).scores, scores)


def test_the_loss_of_tasks_is_the_sum_of_their_cross_entropies():
    rng = np.random.default_rng(0)
    heads, features = torch.nn.Linear(4, 6), torch.from_numpy(rng.normal(size=(20, 4)).astype(np.float32))
    support, query = np.array([[0, 1], [2, 3]]), np.array([[4, 5, 6], [7, 8, -1]])
    labels, asked = np.array([[0, 1], [0, 1]]), np.array([[1, 0, 1], [1, 0, -1]])
    drawn = _Drawn(TaskBatch(support, labels, query, asked, np.array([2, 0]), 2, 1))
    assert drawn.rows.tolist() == [0, 1, 4, 5, 6, 2, 3, 7, 8]
    slow = 0.0
    for task, members, sides in ((2, [0, 1, 4, 5, 6], [0, 1, 1, 0, 1]), (0, [2, 3, 7, 8], [0, 1, 1, 0])):
        outputs = heads(features[members])[:, 2 * task : 2 * task + 2].log_softmax(1)
        slow -= outputs[range(len(sides)), sides].mean().item()
    assert drawn.loss(heads, features[drawn.rows]).item() == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("order", ["curriculum", "bandit"])
def test_orders_that_follow_single_tasks_are_refused(order):
    with pytest.raises(DataError, match=f"the order {order}, which follows .* expected order: random or round-robin"):
        learnt(tasks=tasks_of(two_class_images(40, seed=0), order=order))


def test_the_tasks_shape_the_trunk():
    validation = two_class_images(30, seed=1)
    images = two_class_images(40, seed=0)
    one, other = (learnt(tasks=tasks_of(images, n_shot=shot)).predict(validation, Run()).scores for shot in (2, 3))
    assert (one != other).any()


def test_interrupted_it_ends_with_the_same_bits(tmp_path):
    whole = learnt()
    answers = iter([False] * 6 + [True])
    with pytest.raises(Interrupted):
        learnt(Run(0, checkpoints=tmp_path, stop=lambda: next(answers)))
    resumed = learnt(Run(0, checkpoints=tmp_path))
    assert resumed.facts == whole.facts
    for name, values in whole.to_arrays()[0].items():
        np.testing.assert_array_equal(values, resumed.to_arrays()[0][name])


def test_a_sampler_whose_labels_move_is_refused():
    with pytest.raises(DataError, match="swap_labels: false"):
        learnt(tasks=tasks_of(two_class_images(40, seed=0), swap_labels=True))
