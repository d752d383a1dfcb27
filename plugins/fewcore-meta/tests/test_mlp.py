"""MLPs of many tasks: against one network trained alone, masks, tuning, early stopping, saving."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from few_shot_samples import Tasks, assert_saved_answers_are_equal, draw, hidden, make_images, vectors_of

from fewcore import DataError, Run
from fewcore_meta import hidden_layer
from fewcore_meta.mlp import Mlp


def fit(images, seed=0, validation=None, validation_tasks=None, **options):
    method = Mlp(**{"hidden": 16, "default_epochs": 30, "epochs": (5, 30), **options})
    return method.meta_train(vectors_of(images), Run(seed), validation, validation_tasks)


def alone(start, support, labels, rate, n_epochs, masks):
    """Train one task's network with torch's own layers, loss and Adam; yield it after each epoch."""
    first, second = torch.nn.Linear(*start[0].shape), torch.nn.Linear(*start[2].shape)
    with torch.no_grad():
        for layer, (weights, bias) in ((first, start[:2]), (second, start[2:])):
            layer.weight.copy_(weights.T)
            layer.bias.copy_(bias[0])
    adam = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=rate)
    for epoch in range(n_epochs):
        adam.zero_grad()
        hidden = first(support).relu() * masks[epoch]
        torch.nn.functional.cross_entropy(second(hidden), labels).backward()
        adam.step()
        yield lambda x: second(first(x).relu())


def masks_of(model, batch, i, n_epochs, hidden, dropout):
    """The masks that a task draws: a hash of seed, task, epoch and counter."""
    seeds = hidden_layer._seeds(model._seed, batch.task[i : i + 1], "dropout")
    made = []
    for epoch in range(1, n_epochs + 1):
        drawn = hidden_layer.uniforms(
            hidden_layer._mixed(seeds ^ hidden_layer._mixed(torch.tensor([epoch]))), batch.support.shape[1] * hidden
        )
        made.append((drawn >= dropout).reshape(-1, hidden) / (1 - dropout))
    return made


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("way", "shot"), [(2, 1), (5, 3)])
def test_equals_networks_trained_one_by_one(way, shot, dropout):
    images = make_images()
    batch = draw(images, 6, way, shot)
    model = fit(images, default_dropout=dropout)
    scores = model.classify(hidden(batch), images, Run())
    vectors = torch.from_numpy(vectors_of(images).vectors)
    tasks = hidden_layer.TaskVectors(
        vectors[batch.support], torch.tensor(batch.support_labels), vectors[:0], torch.zeros(0), batch.task, way, shot
    )
    start = hidden_layer._start(tasks, model._seed, 16)
    for i in range(len(batch)):
        masks = masks_of(model, batch, i, 30, 16, dropout) if dropout else [1] * 30
        rows = (vectors[batch.support[i]], torch.tensor(batch.support_labels[i]))
        network = list(alone([w[i] for w in start], *rows, 1e-3, 30, masks))[-1]
        want = torch.log_softmax(network(vectors[batch.query[i]]), -1)
        np.testing.assert_allclose(scores[i], want.detach().numpy(), atol=2e-5)


def test_each_task_is_its_own_and_its_number_decides():
    images = make_images()
    batch = hidden(draw(images, 6, 5, 1))
    model = fit(images)
    whole = model.classify(batch, images, Run())
    np.testing.assert_allclose(model.classify(batch.part(2, 4), images, Run()), whole[2:4], atol=1e-5)
    other = replace(batch, task=batch.task + 100)
    assert np.abs(model.classify(other, images, Run()) - whole).max() > 1e-3
    np.testing.assert_array_equal(fit(images).classify(batch, images, Run()), whole)
    assert np.abs(fit(images, seed=1).classify(batch, images, Run()) - whole).max() > 1e-3


def test_the_numbers_drawn_are_uniform_and_independent():
    seeds = torch.arange(50)
    drawn = hidden_layer.uniforms(seeds, 4000).double()
    # Each bound is about five standard errors: of a mean of 200,000 uniforms, a variance, a correlation of 4000.
    assert abs(float(drawn.mean()) - 0.5) < 5 / (12 * 200_000) ** 0.5
    assert abs(float(drawn.var()) - 1 / 12) < 1e-3
    together = torch.corrcoef(drawn)
    assert float((together - torch.eye(50)).abs().max()) < 5 / 4000**0.5
    lagged = torch.corrcoef(torch.stack([drawn[:, :-1].flatten(), drawn[:, 1:].flatten()]))[0, 1]
    assert abs(float(lagged)) < 5 / 200_000**0.5
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1


def test_the_share_of_units_dropped_is_the_dropout():
    images = make_images()
    model, batch = fit(images), draw(images, 1, 5, 1)
    masks = torch.stack(masks_of(model, batch, 0, 200, 16, 0.25))
    assert abs(float((masks == 0).double().mean()) - 0.25) < 5 * (0.25 * 0.75 / masks.numel()) ** 0.5
    assert float(masks.max()) == pytest.approx(1 / 0.75)
    assert not torch.equal(masks[0], masks[1])


def test_it_learns_what_can_be_learnt():
    images = make_images(spread=0.1)
    batch = draw(images, 30, 5, 5)
    answers = fit(images, hidden=128, default_epochs=200).classify(hidden(batch), images, Run()).argmax(-1)
    assert (answers == batch.query_labels).mean() > 0.95


def test_validation_tasks_choose_dropout_and_epochs():
    images = make_images(spread=1.5)
    tune = draw(images, 25, 5, 2)
    model = fit(images, validation=images, validation_tasks=Tasks(tune), dropouts=(0.0, 0.5), epochs=(2, 20, 60))
    best, means = None, []
    for dropout in (0.0, 0.5):
        for n_epochs in (2, 20, 60):
            again = fit(images, default_dropout=dropout, default_epochs=n_epochs)
            mean = (again.classify(hidden(tune), images, Run()).argmax(-1) == tune.query_labels).mean()
            if not means or mean > max(means) + 1e-9:
                best = (dropout, n_epochs)
            means.append(mean)
    assert model.table == {(5, 2): best}
    assert model.setting(5, 5) == best
    assert fit(images).setting(5, 5) == (0.5, 30)


def test_leaky_early_stop_keeps_the_epoch_at_which_patience_ended():
    images = make_images(spread=1.5)
    batch = draw(images, 5, 5, 2)
    model = fit(images, leaky_early_stop=True, default_dropout=0.0, epochs=(40,), learning_rate=0.05)
    scores = model.classify(batch, images, Run())
    plain_model = fit(images, default_dropout=0.0, epochs=(40,), learning_rate=0.05)
    for i in range(len(batch)):
        least, waited = np.inf, 0
        for epoch in range(1, 41):
            plain_model.table = {(5, 2): (0.0, epoch)}
            logs = plain_model.classify(hidden(batch), images, Run())[i]
            loss = -logs[np.arange(25), batch.query_labels[i]].mean()
            waited = 0 if loss < least else waited + 1
            least = min(least, loss)
            if waited == 2:
                break
        np.testing.assert_allclose(scores[i], logs, atol=1e-4)
        assert epoch < 40


def test_leaky_early_stop_refuses_hidden_labels():
    images = make_images()
    model = fit(images, leaky_early_stop=True)
    with pytest.raises(
        DataError, match=r"^mlp: found hidden query labels with leaky_early_stop, .* set leaky_early_stop: false\)$"
    ):
        model.classify(hidden(draw(images, 2, 5, 1)), images, Run())


def test_leaky_early_stop_chooses_dropout_alone():
    images = make_images(spread=1.5)
    tasks = Tasks(draw(images, 10, 5, 2))
    model = fit(images, leaky_early_stop=True, validation=images, validation_tasks=tasks, dropouts=(0.25, 0.5))
    assert model.table[5, 2][0] in (0.25, 0.5)
    assert model.table[5, 2][1] == 30


@pytest.mark.parametrize("leaky", [False, True])
def test_padding_scores_nothing_and_changes_nothing(leaky):
    images = make_images()
    batch = draw(images, 4, 5, 1)
    padded = replace(batch, query=batch.query.copy(), query_labels=batch.query_labels.copy())
    padded.query[:, -3:] = -1
    padded.query_labels[:, -3:] = -1
    cut_off = replace(batch, query=batch.query[:, :-3], query_labels=batch.query_labels[:, :-3])
    model = fit(images, leaky_early_stop=leaky)
    short, cut = model.classify(cut_off, images, Run()), model.classify(padded, images, Run())
    assert (cut[:, -3:] == 0).all()
    np.testing.assert_allclose(cut[:, :-3], short, atol=1e-6)


def test_saved_model_and_predictor_answer_bit_for_bit():
    images = make_images()
    batch = hidden(draw(images, 6, 5, 2))
    model = fit(images, validation=images, validation_tasks=Tasks(draw(images, 5, 5, 2, seed=1)))
    assert_saved_answers_are_equal(model, batch, images, {"embeddings": vectors_of(images)}, rtol=1e-7, atol=1e-5)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"^dropouts: found \[1.0\]; expected one or more numbers in \[0, 1\)$"):
        Mlp(dropouts=(1.0,))
    with pytest.raises(ValueError, match=r"^epochs: found \[0, 5\]; expected one or more positive integers$"):
        Mlp(epochs=(0, 5))


def test_global_random_state_is_untouched():
    images = make_images()
    before = torch.get_rng_state()
    fit(images).classify(hidden(draw(images, 2, 5, 1)), images, Run())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    images = make_images()
    batch = hidden(draw(images, 20, 5, 5))
    on_cpu, on_gpu = (fit(images).classify(batch, images, Run(device=d)) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-3)
    seeds = torch.arange(5)
    assert torch.equal(hidden_layer.uniforms(seeds, 100), hidden_layer.uniforms(seeds.cuda(), 100).cpu())
