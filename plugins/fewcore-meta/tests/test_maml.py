"""MAML: its equations, exact second-order gradients, norms, padding, resuming, saving, memory, and that it learns."""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from few_shot_samples import labelled, make_patterns
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from fewcore import DataError, Gather, Interrupted, Ranks, Run, TaskBatch
from fewcore_meta import maml, said_once
from fewcore_meta.adaptation import AdaptedPredictor, TaskNetwork
from fewcore_meta.conv4 import Conv4
from fewcore_meta.maml import Maml, MamlModel
from fewcore_meta.task_scores import mean_accuracy, task_accuracy, task_loss

NORMS = ("transductive", "support", "running")
NET = Conv4(filters=4, n_blocks=2)


def make_images(n_classes=12, each=14, seed=0):
    return make_patterns(n_classes, each, noise=0.25, seed=seed)


class Episodes:
    """Tasks from the labels; task i is a function of the seed and i."""

    def __init__(self, images, way=3, shot=1, n_query=3, n_tasks=40, seed=0, padded=False):
        self.n_way, self.n_shot = (way,), (shot,)
        self._labels, self._n_query, self._n_tasks, self._seed, self._padded = (
            images.labels,
            n_query,
            n_tasks,
            seed,
            padded,
        )

    def at(self, numbers):
        way, shot = self.n_way[0], self.n_shot[0]
        rows = []
        for number in numbers:
            rng = np.random.default_rng((self._seed, number))
            classes = rng.permutation(self._labels.max() + 1)[:way]
            rows.append([rng.permutation(np.flatnonzero(self._labels == c))[: shot + self._n_query] for c in classes])
        rows, t = np.array(rows), len(rows)
        labels = np.broadcast_to(np.arange(way)[None, :, None], rows.shape)
        query, query_labels = rows[:, :, shot:].reshape(t, -1).copy(), labels[:, :, shot:].reshape(t, -1).copy()
        if self._padded:
            query[1::2, -2:] = query_labels[1::2, -2:] = -1
        support, support_labels = (v[:, :, :shot].reshape(t, -1) for v in (rows, labels))
        return TaskBatch(support, support_labels, query, query_labels, np.array(numbers), way, shot)

    def start(self):
        return Cursor(self)

    def batches(self):
        yield self.at(range(self._n_tasks))


class Cursor:
    def __init__(self, stream):
        self.stream, self.place, self.seen = stream, 0, []

    def draw(self, t):
        self.place += t
        return self.stream.at(range(self.place - t, self.place))

    def observe(self, batch, scores):
        self.seen.append(scores)

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


class PlainNetwork(nn.Module):
    """A network without forward_tasks: one convolution, batch norm, a head."""

    def __init__(self, n_outputs):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 3, 3, 2), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, n_outputs)

    def forward(self, x):
        return self.head(self.norm(self.convolution(x)).relu().mean((2, 3)))


@dataclass(frozen=True)
class Plain:
    def build(self, shape, n_outputs, generator):
        network = PlainNetwork(n_outputs)
        with torch.no_grad():
            for p in network.parameters():
                p.copy_(0.5 * torch.randn(p.shape, generator=generator))
        return network


class Double:
    """Images as float64."""

    def __init__(self, images):
        self.device, self._gather = torch.device("cpu"), Gather(images, torch.device("cpu"))
        self.shape = images.shape

    def __call__(self, rows):
        return self._gather(rows).double()


def normed(network, parameters, x, marked):
    """Logits with batch norm written out, for conv4 without a scale; statistics of the marked images."""
    for index in range(len(network.blocks)):
        y = functional.conv2d(x, parameters[f"blocks.{index}.convolution.weight"], None, 2, 1)
        mean = y[marked].mean((0, 2, 3), keepdim=True)
        var = (y[marked] - mean).square().mean((0, 2, 3), keepdim=True)
        x = ((y - mean) / (var + 1e-3).sqrt() + parameters[f"blocks.{index}.norm.bias"].view(1, -1, 1, 1)).relu()
    return functional.linear(x.mean((2, 3)), parameters["head.weight"], parameters["head.bias"])


def reference(options, network, images, batch):
    """The outer loss and gradient, task by task, as the paper's equations say."""
    gather, total = Double(images), 0.0
    original = dict(network.named_parameters())
    adapted = [n for n in original if (n.startswith("head") if options.anil else ".norm." not in n)]
    for task in range(len(batch)):
        x, y = gather(batch.support[task]), torch.tensor(batch.support_labels[task])
        known = batch.query[task] >= 0
        qx, qy = gather(batch.query[task][known]), torch.tensor(batch.query_labels[task][known])
        parameters = dict(original)
        for _ in range(options.inner_steps):
            logits = normed(network, parameters, x, slice(None))[:, : batch.n_way]
            loss = batch.n_way * functional.cross_entropy(logits, y)
            made = torch.autograd.grad(loss, [parameters[n] for n in adapted], create_graph=not options.first_order)
            steps = {n: parameters[n] - options.inner_lr * g for n, g in zip(adapted, made, strict=True)}
            parameters = {**parameters, **steps}
        if options.norm == "support":
            logits = normed(network, parameters, torch.cat([x, qx]), slice(0, len(x)))[len(x) :]
        else:
            logits = normed(network, parameters, qx, slice(None))
        # Each class weighs the same, however many of its queries are padding.
        losses = [functional.cross_entropy(logits[qy == k, : batch.n_way], qy[qy == k]) for k in qy.unique()]
        total = total + batch.n_way * torch.stack(losses).mean() / len(batch)
    gradients = torch.autograd.grad(total, list(original.values()))
    return float(total.detach()), dict(zip(original, gradients, strict=True))


def outer(options, network, images, batch):
    loss, *_ = options._outer_gradient(TaskNetwork(network, head_only=options.anil), Double(images), batch, Ranks())
    return float(loss), {name: p.grad.clone() for name, p in network.named_parameters()}


def same_weights(a, b):
    arrays = [model.to_arrays()[0] for model in (a, b)]
    return all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("other", [{}, {"first_order": True}, {"anil": True}], ids=["second", "first", "anil"])
def test_outer_gradient_is_that_of_a_loop_over_tasks(norm, padded, other):
    images = make_images()
    batch = Episodes(images, padded=padded).at(range(4))
    options = Maml(inner_steps=3, norm=norm, **other)
    network = NET.build(images.shape, 4, torch.Generator().manual_seed(0)).double()
    expected_loss, expected = reference(options, network, images, batch)
    loss, made = outer(options, network, images, batch)
    assert abs(loss - expected_loss) < 1e-10
    for name, gradient in expected.items():
        torch.testing.assert_close(made[name], gradient, atol=1e-10, rtol=0)
    assert float(made["blocks.0.norm.bias"].abs().max()) > 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_outer_gradient_agrees_with_finite_differences(norm):
    images = make_images()
    batch, options = Episodes(images, padded=True).at(range(3)), Maml(inner_steps=4, norm=norm)
    network = NET.build(images.shape, 3, torch.Generator().manual_seed(0)).double()
    _, made = outer(options, network, images, batch)
    generator = torch.Generator().manual_seed(4)
    for name, parameter in network.named_parameters():
        direction, ends = torch.randn(parameter.shape, dtype=torch.float64, generator=generator), []
        for step in (1e-6, -2e-6, 1e-6):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
            ends.append(outer(options, network, images, batch)[0])
        measured = (ends[0] - ends[1]) / 2e-6
        assert abs(float((made[name] * direction).sum()) - measured) < 1e-6 * max(1, abs(measured)), name


def test_networks_without_forward_tasks_give_the_same_gradient_in_a_loop(caplog):
    images = make_images()
    batch = Episodes(images, padded=True).at(range(3))
    for norm in NORMS:
        network = NET.build(images.shape, 3, torch.Generator().manual_seed(0)).double()
        _, expected = outer(Maml(inner_steps=2, norm=norm), network, images, batch)

        class Hidden(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.blocks, self.head, self._inner = inner.blocks, inner.head, [inner]

            def forward(self, x):
                return type(self._inner[0]).forward(self, x)

            pools = False

        _, made = outer(Maml(inner_steps=2, norm=norm), Hidden(network), images, batch)
        for name, gradient in expected.items():
            torch.testing.assert_close(made[name], gradient, atol=1e-10, rtol=0)
    said_once.say_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="fewcore"):
        Maml(iterations=1, inner_steps=1).meta_train(Episodes(images), images, Plain(), Run())
    assert (
        "PlainNetwork: tasks are computed one after the other, as for every network without forward_tasks"
        in caplog.text
    )


def test_batch_norm_is_not_adapted():
    images = make_images()
    batch = Episodes(images).at(range(2))
    for backbone in (NET, Plain(), Conv4(filters=4, n_blocks=2, scale=True)):
        tasked = TaskNetwork(backbone.build(images.shape, 3, torch.Generator()))
        assert {n for n, _ in tasked.network.named_parameters()} - set(tasked.adapted) == {
            n for n, _ in tasked.network.named_parameters() if "norm" in n
        }
        gather = Gather(images, torch.device("cpu"))
        labels = torch.tensor(batch.support_labels)
        before = tasked.parameters(2)
        after = tasked.adapt(before, gather(batch.support), labels, 3, inner_lr=0.1, steps=2)
        assert all(after[n] is before[n] for n in before if n not in tasked.adapted)
        assert not any(torch.equal(after[n], before[n]) for n in tasked.adapted if n != "convolution.bias")
    assert set(TaskNetwork(Plain().build((1, 8, 8), 3, torch.Generator()), head_only=True).adapted) == {
        "head.weight",
        "head.bias",
    }


def test_loss_is_summed_over_classes():
    # Uniform logits: the cross-entropy of each query is log k; summed over classes, k log k, whatever the shots.
    for k, n in ((2, 4), (5, 25), (20, 20)):
        labels = torch.arange(n).view(1, n) % k
        torch.testing.assert_close(task_loss(torch.zeros(1, n, k), labels), torch.tensor([k * np.log(k)]).float())
    padded = torch.tensor([[0, 1, -1, -1]])
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [9.0, -9.0], [0.0, 0.0]]])
    torch.testing.assert_close(task_loss(logits, padded), task_loss(logits[:, :2], padded[:, :2]))
    assert task_accuracy(logits, padded).tolist() == [1.0]


def test_classes_of_a_task_weigh_the_same_however_many_queries_they_have():
    logits = torch.randn(3, 7, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 0, 0, 0, 1, 2, -1], [0, 1, 1, 1, 1, 2, 2], [1, 1, 1, 2, 2, 2, 2]])
    for task, (own, wanted) in enumerate(zip(logits, labels, strict=True)):
        means = [functional.cross_entropy(own[wanted == k], wanted[wanted == k]) for k in range(3) if k in wanted]
        torch.testing.assert_close(task_loss(logits, labels)[task], 3 * torch.stack(means).mean())


def test_zero_inner_steps_are_plain_training_on_the_queries():
    images = make_images()
    batch = Episodes(images).at(range(2))
    network = NET.build(images.shape, 3, torch.Generator().manual_seed(0)).double()
    _, made = outer(Maml(inner_steps=0), network, images, batch)
    _, expected = reference(Maml(inner_steps=0), network, images, batch)
    for name in expected:
        torch.testing.assert_close(made[name], expected[name], atol=1e-12, rtol=0)


def train(images=None, run=None, **options):
    images = images or make_images()
    options = {"iterations": 6, "inner_steps": 2, "test_steps": 3, "tasks_per_step": 3, **options}
    return Maml(**options).meta_train(Episodes(images), images, NET, run or Run(seed=3))


def test_clip_bounds_each_element_of_the_outer_gradient():
    images = make_images()
    small = train(images, iterations=1, learning_rate=0.0, clip=1e-3)
    assert max(float(p.grad.abs().max()) for p in small.network.parameters()) <= 1.0001e-3
    free = train(images, iterations=1, learning_rate=0.0)
    assert max(float(p.grad.abs().max()) for p in free.network.parameters()) > 1e-2


@pytest.mark.parametrize("norm", NORMS)
def test_a_resumed_run_ends_bit_identical(norm, tmp_path):
    whole = train(norm=norm)
    steps = iter(range(100))
    stopped = Run(seed=3, checkpoints=tmp_path, checkpoint_every=0.0, stop=lambda: next(steps) == 2)
    with pytest.raises(Interrupted):
        train(norm=norm, run=stopped)
    resumed = train(norm=norm, run=Run(seed=3, checkpoints=tmp_path))
    assert same_weights(whole, resumed)
    assert not same_weights(whole, train(norm=norm, run=Run(seed=4)))


@pytest.mark.parametrize("norm", NORMS)
def test_saved_models_and_predictors_give_the_same_scores(norm):
    images = make_images()
    model, batch = train(images, norm=norm), Episodes(images).at(range(5))
    again = MamlModel.from_arrays(*model.to_arrays(), {"backbone": NET})
    assert again.norm == norm
    assert again.max_way == 3
    np.testing.assert_array_equal(again.classify(batch, images, Run()), model.classify(batch, images, Run()))
    support = labelled(images, batch.support[0], batch.support_labels[0], 3)
    predictor = model.adapt(support, Run())
    loaded = AdaptedPredictor.from_arrays(*predictor.to_arrays(), {"backbone": NET})
    np.testing.assert_array_equal(loaded.predict(images, Run()).scores, predictor.predict(images, Run()).scores)


def test_snapshots_are_what_shorter_training_ends_with(tmp_path):
    kept = train(snapshot_every=2)
    for model in (kept, MamlModel.from_arrays(*kept.to_arrays(), {"backbone": NET})):
        assert len(model.snapshots) == 2
        for snapshot, iterations in zip(model.snapshots, (2, 4), strict=True):
            assert same_weights(snapshot, train(iterations=iterations))
    steps = iter(range(100))
    stopped = Run(seed=3, checkpoints=tmp_path, checkpoint_every=0.0, stop=lambda: next(steps) == 2)
    with pytest.raises(Interrupted):
        train(snapshot_every=2, run=stopped)
    resumed = train(snapshot_every=2, run=Run(seed=3, checkpoints=tmp_path))
    assert same_weights(kept, resumed)


@pytest.mark.parametrize("norm", NORMS)
def test_adapt_and_classify_agree(norm):
    images = make_images()
    model, batch = train(images, norm=norm), Episodes(images, shot=2).at([7])
    query = labelled(images, batch.query[0], batch.query_labels[0], 3)
    predictor = model.adapt(labelled(images, batch.support[0], batch.support_labels[0], 3), Run())
    assert predictor.norm == norm
    scores = predictor.predict(query, Run()).scores
    np.testing.assert_allclose(scores, model.classify(batch, images, Run())[0], atol=1e-4)
    alone = predictor.predict(labelled(images, batch.query[0][:1], batch.query_labels[0][:1], 3), Run()).scores
    assert np.allclose(alone, scores[:1], atol=1e-4) == (norm != "transductive")


def test_classifying_can_be_stopped():
    images = make_images()
    with pytest.raises(Interrupted, match="run again"):
        train(images).classify(Episodes(images).at(range(3)), images, Run(stop=lambda: True))


def test_a_stop_during_validation_waits_for_the_step_and_saves(tmp_path):
    images = make_images()
    options = Maml(iterations=6, inner_steps=1, test_steps=1, tasks_per_step=2, validate_every=1)
    run = Run(checkpoints=tmp_path, stop=lambda: True)
    with pytest.raises(Interrupted, match="stopped after step 1 of 6"):
        options.meta_train(Episodes(images), images, NET, run, images, Episodes(images, seed=5))
    assert list(tmp_path.glob("*.checkpoint"))


@pytest.mark.parametrize("norm", NORMS)
def test_scores_depend_on_other_queries_only_where_that_is_said(norm):
    images = make_images()
    model, batch = train(images, norm=norm), Episodes(images).at(range(4))
    scores = model.classify(batch, images, Run())
    order = np.random.default_rng(0).permutation(batch.query.shape[1])
    mixed = replace(batch, query=batch.query[:, order], query_labels=batch.query_labels[:, order])
    np.testing.assert_allclose(model.classify(mixed, images, Run()), scores[:, order], atol=1e-4)
    fewer = replace(batch, query=batch.query[:, :4], query_labels=batch.query_labels[:, :4])
    assert np.allclose(model.classify(fewer, images, Run()), scores[:, :4], atol=1e-4) == (norm != "transductive")


@pytest.mark.parametrize("norm", NORMS)
def test_padding_is_as_if_it_were_not_there(norm):
    images = make_images()
    model, batch = train(images, norm=norm), Episodes(images).at(range(3))
    padded = replace(
        batch,
        query=np.pad(batch.query, ((0, 0), (0, 5)), constant_values=-1),
        query_labels=np.pad(batch.query_labels, ((0, 0), (0, 5)), constant_values=-1),
    )
    scores = model.classify(padded, images, Run())
    np.testing.assert_allclose(scores[:, :-5], model.classify(batch, images, Run()), atol=1e-4)
    assert not scores[:, -5:].any()


def test_many_tasks_are_classified_in_parts(monkeypatch):
    images = make_images()
    model, batch = train(images), Episodes(images).at(range(7))
    whole = model.classify(batch, images, Run())
    monkeypatch.setattr(maml, "VALUES_AT_ONCE", {"cpu": 3 * 12 * 64})
    np.testing.assert_allclose(model.classify(batch, images, Run()), whole, atol=1e-4)


def test_narrower_tests_use_the_first_outputs_and_wider_ones_are_refused():
    images = make_images()
    model = train(images)
    narrow = Episodes(images, way=2).at(range(3))
    scores = model.classify(narrow, images, Run())
    assert scores.shape == (3, 6, 2)
    assert scores.dtype == np.float32
    sliced = NET.build(images.shape, 2, torch.Generator())
    state = {n: v[:2] if n.startswith("head") else v for n, v in model.network.state_dict().items()}
    sliced.load_state_dict(state)
    np.testing.assert_allclose(
        MamlModel(model.options, sliced, images.shape, 2).classify(narrow, images, Run()), scores, atol=1e-5
    )
    with pytest.raises(DataError) as caught:
        model.classify(Episodes(images, way=5).at(range(2)), images, Run())
    assert str(caught.value) == (
        "maml: found 5 classes; expected at most 3, as many as in meta-training (meta-train with a greater n_way)"
    )
    with pytest.raises(DataError, match="maml: found 12 classes; expected at most 3"):
        model.adapt(images, Run())


def test_a_support_set_without_labels_and_a_headless_backbone_are_refused():
    images = make_images()
    model, batch = train(images), Episodes(images).at([0])
    with pytest.raises(DataError) as caught:
        model.adapt(labelled(images, batch.support[0], np.full(3, -1), 3), Run())
    assert str(caught.value) == "adapt: found no image with a known class; expected some of each class"
    with pytest.raises(DataError) as caught:
        TaskNetwork(NET.build(images.shape, 0, torch.Generator()), head_only=True)
    assert str(caught.value) == "adaptation: found a backbone without parameters named 'head.*'; expected a linear head"


def test_validation_tasks_draw_a_curve_and_change_nothing():
    images, other = make_images(), make_images(seed=1)
    assert Maml.monitors == ("validation_tasks", "validation")
    assert Maml.limits_way
    run = Run(seed=3)
    options = Maml(iterations=6, inner_steps=2, test_steps=3, tasks_per_step=3, validate_every=2)
    watched = options.meta_train(Episodes(images), images, NET, run, other, Episodes(other, seed=5))
    assert same_weights(watched, train(images))
    curve = [record["validation_accuracy"] for record in run.records if "validation_accuracy" in record]
    assert len(curve) == 3
    last = Episodes(other, seed=5).at(range(40))
    assert abs(curve[-1] - mean_accuracy(watched.classify(last, other, Run()), last)) < 1e-6
    assert {"loss", "accuracy"} <= set(run.records[-1])
    with pytest.raises(DataError) as caught:
        options.meta_train(Episodes(images), images, NET, Run(), other, Episodes(other, way=4))
    assert str(caught.value) == (
        "maml: found validation tasks of 4 classes and more; expected at most 3, as many as the training tasks have "
        "(lower n_way of the validation tasks)"
    )


def test_the_sampler_hears_of_each_task():
    images = make_images()
    cursors = []

    class Listening(Episodes):
        def start(self):
            cursors.append(Cursor(self))
            return cursors[-1]

    run = Run()
    Maml(iterations=2, inner_steps=1, tasks_per_step=5).meta_train(Listening(images), images, NET, run)
    seen = cursors[0].seen
    assert [len(s) for s in seen] == [5, 5]
    assert abs(np.mean(seen[0]) - run.records[0]["accuracy"]) < 1e-6


def test_global_random_state_is_untouched():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(iterations=2)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002


def test_memory_does_not_grow():
    images = make_images()
    batch, gather = Episodes(images, n_query=8).at(range(8)), Gather(images, torch.device("cpu"))
    options, tasked = Maml(inner_steps=3), TaskNetwork(Conv4(filters=16).build(images.shape, 3, torch.Generator()))
    for _ in range(10):
        options._outer_gradient(tasked, gather, batch, Ranks())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(50):
        options._outer_gradient(tasked, gather, batch, Ranks())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes; a kept graph is 3,000 each


@pytest.mark.parametrize("norm", ["transductive", "support"])
def test_meta_training_beats_no_meta_training(norm):
    images, test = make_images(40, 8), make_images(12, seed=2)
    batch = Episodes(test, seed=9).at(range(60))
    accuracies = []
    for iterations in (0, 120):
        options = Maml(
            iterations=iterations, inner_steps=3, test_steps=5, tasks_per_step=8, learning_rate=5e-3, norm=norm
        )
        model = options.meta_train(Episodes(images), images, Conv4(filters=8, n_blocks=2), Run(seed=1))
        accuracies.append(mean_accuracy(model.classify(batch, test, Run()), batch))
    assert accuracies[1] > accuracies[0] + 0.05
    assert accuracies[1] > 1 / 3 + 0.3


def test_functional_call_and_forward_tasks_mean_the_same_parameters():
    network = NET.build((1, 8, 8), 3, torch.Generator().manual_seed(0)).train()
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    parameters = dict(network.named_parameters())
    torch.testing.assert_close(
        functional_call(network, parameters, (x,)), network.forward_tasks(parameters, x[None])[0]
    )


@pytest.mark.gpu
@pytest.mark.parametrize("norm", NORMS)
def test_cuda_agrees_with_the_cpu(norm):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: meta-training on a GPU is not compared with the CPU's")
    images = make_images()
    batch = Episodes(images).at(range(5))
    scores = []
    options = Maml(iterations=3, inner_steps=2, test_steps=3, tasks_per_step=3, norm=norm)
    # In convolutions of ten bits a GPU is too far from the CPU after three steps.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for device in ("cpu", "cuda"):
            run = Run(seed=3, device=device)
            scores.append(options.meta_train(Episodes(images), images, NET, run).classify(batch, images, run))
    np.testing.assert_allclose(scores[0], scores[1], atol=0.02)
