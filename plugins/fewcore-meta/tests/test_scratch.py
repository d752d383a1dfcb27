"""Training from scratch: against a loop, fresh weights for each task, chosen learning rates, saving, that it learns."""

from __future__ import annotations

import json
from dataclasses import replace

import few_shot_samples
import numpy as np
import pytest
import torch
from few_shot_samples import Tasks, labelled, make_patterns
from torch.nn import functional

from fewcore import DataError, Interrupted, Run, TaskBatch, child_seed, torch_generator
from fewcore_meta import scratch
from fewcore_meta.adaptation import AdaptedPredictor
from fewcore_meta.conv4 import Conv4
from fewcore_meta.scratch import Scratch, ScratchModel
from fewcore_meta.task_scores import mean_accuracy

NET = Conv4(filters=4, n_blocks=2)


def draw(images, t=6, way=3, shot=2, n_query=3):
    return few_shot_samples.draw(images, t, way, shot, n_query)


def fit(images, seed=0, validation=None, tasks=None, **options):
    return Scratch(**{"steps": 10, **options}).meta_train(images, NET, Run(seed), validation, tasks)


@pytest.mark.parametrize("norm", ["transductive", "support"])
def test_scores_are_those_of_a_loop_over_tasks_and_steps(norm):
    images = make_patterns()
    model, batch = fit(images, norm=norm, steps=4, learning_rate=0.05), draw(images)
    scores, (_, meta) = model.classify(batch, images, Run()), model.to_arrays()
    pixels = torch.from_numpy(images.images)
    for task in range(len(batch)):
        network = NET.build(images.shape, 3, torch_generator(child_seed(meta["seed"], task, 3))).train()
        weights = [p for name, p in network.named_parameters() if ".norm." not in name]
        x, y = pixels[batch.support[task]], torch.tensor(batch.support_labels[task])
        for _ in range(4):
            loss = 3 * functional.cross_entropy(network(x), y)
            for p, g in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                p.data -= 0.05 * g
        query = pixels[batch.query[task]]
        if norm == "transductive":
            expected = network(query)
        else:
            for block in network.blocks:
                block["norm"].momentum = 1.0
            network.forward_tasks(dict(network.named_parameters()), x[None], momentum=1.0)
            expected = network.eval()(query)
        np.testing.assert_allclose(scores[task], expected.detach().numpy(), atol=2e-4)


def test_each_task_starts_from_weights_of_its_own_that_its_number_decides(monkeypatch):
    images = make_patterns()
    batch = draw(images)
    same = TaskBatch(
        *(np.repeat(getattr(batch, n)[:1], 6, 0) for n in ("support", "support_labels", "query", "query_labels")),
        np.arange(6),
        3,
        2,
    )
    model = fit(images, steps=0)
    scores = model.classify(same, images, Run())
    assert all(not np.allclose(scores[0], scores[task]) for task in range(1, 6))
    shared = fit(images, steps=0, shared=True).classify(same, images, Run())
    np.testing.assert_allclose(shared, np.repeat(shared[:1], 6, 0), atol=1e-5)
    np.testing.assert_allclose(model.classify(same.part(2, 5), images, Run()), scores[2:5], atol=1e-5)
    monkeypatch.setattr(scratch, "VALUES_AT_ONCE", {"cpu": 2 * 15 * 64})
    np.testing.assert_allclose(model.classify(same, images, Run()), scores, atol=1e-5)


def test_classifying_shows_progress_and_can_be_stopped(monkeypatch):
    monkeypatch.setattr(scratch, "VALUES_AT_ONCE", {"cpu": 1})
    images, shown = make_patterns(), []
    model, batch = fit(images), draw(images)

    class Sink:
        def update(self, name, done, total, values):
            shown.append((name, done, total))

    model.classify(batch, images, Run(name="scratch", progress=Sink()))
    assert shown == [("scratch: tasks", done, len(batch)) for done in range(1, len(batch) + 1)]
    with pytest.raises(Interrupted, match="run again"):
        model.classify(batch, images, Run(stop=lambda: True))


def test_a_seed_decides_everything_and_global_randomness_is_untouched():
    images = make_patterns()
    batch, before = draw(images), torch.get_rng_state()
    scores = fit(images).classify(batch, images, Run())
    np.testing.assert_array_equal(fit(images).classify(batch, images, Run(seed=7)), scores)
    assert not np.allclose(fit(images, seed=1).classify(batch, images, Run()), scores)
    assert torch.equal(before, torch.get_rng_state())


def test_padding_is_as_if_it_were_not_there():
    images = make_patterns()
    model, batch = fit(images), draw(images)
    wide = {n: np.pad(getattr(batch, n), ((0, 0), (0, 4)), constant_values=-1) for n in ("query", "query_labels")}
    scores = model.classify(replace(batch, **wide), images, Run())
    np.testing.assert_allclose(scores[:, :-4], model.classify(batch, images, Run()), atol=1e-4)
    assert not scores[:, -4:].any()


def test_the_learning_rate_is_chosen_for_each_way_and_shot():
    images, other = make_patterns(), make_patterns(seed=1)
    one, two = draw(other, 12, 3, 1), draw(other, 12, 2, 2)
    model = fit(images, validation=other, tasks=Tasks(one, two), rates=(0.0, 0.03, 0.3))
    for batch in (one, two):
        accuracies = [mean_accuracy(model.scores([batch], other, Run(), rate), batch) for rate in (0.0, 0.03, 0.3)]
        assert model.rates[batch.n_way, batch.n_shot] == (0.0, 0.03, 0.3)[int(np.argmax(accuracies))]
        chosen = model.scores([batch], other, Run(), model.rates[batch.n_way, batch.n_shot])
        np.testing.assert_array_equal(model.classify(batch, other, Run()), chosen)
    untuned = draw(images, 4, 3, 5)
    np.testing.assert_array_equal(model.classify(untuned, images, Run()), model.scores([untuned], images, Run(), 0.1))
    assert fit(images, validation=other).rates == {}


def test_saved_models_and_predictors_give_the_same_scores():
    images, other = make_patterns(), make_patterns(seed=1)
    model, batch = fit(images, validation=other, tasks=Tasks(draw(other, 5))), draw(images)
    arrays, meta = model.to_arrays()
    again = ScratchModel.from_arrays(arrays, json.loads(json.dumps(meta)), {"backbone": NET})
    assert again.rates == model.rates
    assert again.norm == "transductive"
    np.testing.assert_array_equal(again.classify(batch, images, Run()), model.classify(batch, images, Run()))
    predictor = model.adapt(labelled(images, batch.support[0], batch.support_labels[0], 3), Run())
    arrays, meta = predictor.to_arrays()
    loaded = AdaptedPredictor.from_arrays(arrays, json.loads(json.dumps(meta)), {"backbone": NET})
    np.testing.assert_array_equal(loaded.predict(images, Run()).scores, predictor.predict(images, Run()).scores)


def test_training_beats_chance_and_no_training():
    images = make_patterns()
    batch = draw(images, 40, 3, 3)
    trained, raw = (mean_accuracy(fit(images, steps=s).classify(batch, images, Run()), batch) for s in (40, 0))
    assert trained > 1 / 3 + 0.25
    assert trained > raw + 0.15


def test_wrong_options_and_unlabelled_support_sets_are_refused():
    with pytest.raises(ValueError, match=r"^rates: found \[0.1, -1.0\]; expected at least one number, none below 0$"):
        Scratch(rates=(0.1, -1.0))
    with pytest.raises(ValueError, match=r"^rates: found \[\]; expected at least one number, none below 0$"):
        Scratch(rates=())
    images = make_patterns()
    with pytest.raises(DataError) as caught:
        fit(images).adapt(labelled(images, np.arange(3), np.full(3, -1), 3), Run())
    assert str(caught.value) == "adapt: found no image with a known class; expected some of each class"


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: training from scratch on a GPU is not compared with the CPU's")
    images = make_patterns()
    batch, scores = draw(images), []
    for device in ("cpu", "cuda"):
        run = Run(device=device)
        scores.append(Scratch(steps=5).meta_train(images, NET, run).classify(batch, images, run))
    np.testing.assert_allclose(scores[0], scores[1], atol=0.02)
