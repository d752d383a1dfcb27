"""MAML on volumes: order, recomputed inner steps, batch norm's own code, the sampler's scores, the figure, the memory."""

import logging
from dataclasses import dataclass

import matplotlib.figure
import numpy as np
import pytest
import torch
from few_shot_samples import two_class_images
from torch import nn
from torch.func import functional_call

from fewcore import Gather, ImageSet, ImageSpec, Interrupted, Partitions, Ranks, Run, TaskBatch, auc, torch_generator
from fewcore_meta import said_once
from fewcore_meta.adaptation import TaskNetwork
from fewcore_meta.cluster_subsets import ClusterSubsets
from fewcore_meta.conv4 import Conv4
from fewcore_meta.maml import Maml, MamlModel
from fewcore_meta.task_history import binned, draw_history, rewards
from fewcore_meta.task_memory import bytes_of_image, estimated_bytes
from fewcore_meta.task_scores import task_auc

SHAPE = (1, 4, 5, 6)


class VolumeNetwork(nn.Module):
    """Two convolutions with batch norm, and a head."""

    def __init__(self, n_outputs):
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 3, 3, padding=1), nn.Conv3d(3, 4, 3, 2)
        self.norm, self.other = nn.BatchNorm3d(3), nn.BatchNorm3d(4)
        self.head = nn.Linear(4, n_outputs)

    def forward(self, x):
        h = self.other(self.second(self.norm(self.first(x)).relu())).relu()
        return self.head(h.flatten(2).mean(2))


@dataclass(frozen=True)
class Volumes:
    def build(self, shape, n_outputs, generator):
        with torch.random.fork_rng():
            network = VolumeNetwork(n_outputs)
        with torch.no_grad():
            for p in network.parameters():
                p.copy_(0.4 * torch.randn(p.shape, generator=generator))
        return network


def volumes(n=24):
    pixels = np.random.default_rng(0).integers(0, 256, (n, *SHAPE), dtype=np.uint8)
    ids = np.arange(n)
    return ImageSet(pixels, ids, ids, ImageSpec(SHAPE[1:], 1, (0, 255)))


def stream_of(order):
    parts = Partitions(np.array([[0, 1, 2] * 8], np.int8), np.arange(24))
    return ClusterSubsets(n_shot=2, n_query=4, order=order).tasks(parts, Run(0))


def batch(t=2, s=4, q=6, padded=False):
    rows = np.random.default_rng(1).permuted(np.tile(np.arange(24), (t, 1)), axis=1)
    query, labels = rows[:, s : s + q].copy(), np.tile(np.arange(q) % 2, (t, 1))
    if padded:
        query[1, -2:] = labels[1, -2:] = -1
    return TaskBatch(rows[:, :s], np.tile(np.arange(s) % 2, (t, 1)), query, labels, np.arange(t), 2, s // 2)


class Double:
    """Volumes as float64."""

    device, shape = torch.device("cpu"), SHAPE

    def __call__(self, rows):
        return Gather(volumes(), self.device)(rows).double()


def outer(network, given=None, **options):
    """The loss and the outer gradient, by name."""
    made = Maml(**{"inner_steps": 2, "inner_lr": 0.1, **options})
    loss, *_ = made._outer_gradient(TaskNetwork(network), Double(), given or batch(), Ranks())
    return float(loss), {name: p.grad.clone() for name, p in network.named_parameters()}


def network_of(seed=0):
    return Volumes().build(SHAPE, 2, torch_generator(seed)).double()


def test_volumes_are_learnt_in_first_order_unless_said_otherwise():
    network = network_of()
    plain, first, second = (outer(network, first_order=order)[1] for order in (None, True, False))
    for name, gradient in plain.items():
        assert torch.equal(gradient, first[name])
    assert not torch.equal(plain["first.weight"], second["first.weight"])
    assert not Maml()._is_first_order((1, 28, 28))
    assert Maml(first_order=True)._is_first_order((1, 28, 28))


@pytest.mark.parametrize("norm", ["transductive", "support", "running"])
def test_recomputed_inner_steps_give_the_same_second_order_gradient(norm):
    for given in (batch(), batch(padded=True)):
        network = network_of()
        _, wanted = outer(network, given, first_order=False, norm=norm)
        _, made = outer(network, given, first_order=False, norm=norm, checkpointing=True)
        for name, gradient in wanted.items():
            torch.testing.assert_close(made[name], gradient, rtol=1e-10, atol=1e-12)


def test_the_second_order_gradient_agrees_with_finite_differences():
    network, generator = network_of(), torch_generator(5)
    _, made = outer(network, first_order=False, checkpointing=True)
    for name, parameter in network.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        ends = []
        for side in (1e-6, -2e-6):
            with torch.no_grad():
                parameter += side * direction
            ends.append(outer(network, first_order=False)[0])
        with torch.no_grad():
            parameter += 1e-6 * direction
        measured = (ends[0] - ends[1]) / 2e-6
        assert float((made[name] * direction).sum()) == pytest.approx(measured, rel=1e-5, abs=1e-6), name


def test_torchs_batch_norm_is_the_one_written_out_and_leaves_running_averages_alone():
    network = network_of()
    for layer in (network.norm, network.other):
        layer.running_mean.fill_(3.0)
    tasked, x = TaskNetwork(network), Double()(batch().query)
    parameters = tasked.parameters(len(x))
    fast = tasked.logits(parameters, x, 2)
    slow = tasked.logits(parameters, x, 2, torch.ones(x.shape[:2], dtype=torch.float64))
    torch.testing.assert_close(fast, slow)
    for task, images in enumerate(x):
        own = {name: p[task] if name in tasked.adapted else p for name, p in parameters.items()}
        network.train()
        torch.testing.assert_close(functional_call(network, own, (images,)), fast[task])
        network.eval()
        network.norm.running_mean.fill_(3.0)
    tasked.logits(parameters, x, 2)
    assert (network.norm.running_mean == 3.0).all()


def test_the_sampler_observes_the_area_under_the_curve_of_adapted_queries():
    generator = torch_generator(0)
    logits = torch.randn(3, 8, 2, generator=generator).round(decimals=1)
    labels = torch.tensor([[0, 1, 0, 1, 1, 0, 1, -1], [0, 0, 0, 1, -1, -1, -1, -1], [0] * 8])
    made = task_auc(logits, labels)
    for task in (0, 1):
        known = labels[task] >= 0
        scores = (logits[task, :, 1] - logits[task, :, 0])[known].numpy()
        assert made[task].item() == pytest.approx(auc(scores, labels[task][known].numpy() == 1))
    assert made[2].isnan()
    images, heard = volumes(), []
    sampler = stream_of("curriculum")
    cursor = sampler.start()
    observe = cursor.observe

    class Listening:
        n_way, n_shot = sampler.n_way, sampler.n_shot

        def start(self):
            cursor.observe = lambda *seen: (heard.append(seen), observe(*seen))
            return cursor

    Maml(iterations=3, inner_steps=1, tasks_per_step=4).meta_train(Listening(), images, Volumes(), Run())
    assert [len(scores) for _, scores in heard] == [4, 4, 4]
    for _, scores in heard:
        assert set(np.round(scores * 16, 6) % 1) == {0}  # of 4 x 4 pairs
    assert cursor.observed.sum() == 12


def test_rewards_are_changes_of_a_tasks_own_score():
    tasks = np.array([[0, 1], [1, 2], [0, 1], [0, 2]])
    scores = np.array([[0.5, 0.2], [0.3, 0.9], [np.nan, 0.1], [0.9, 0.8]])
    history = np.stack([tasks, scores], 1)
    nan = np.nan
    np.testing.assert_allclose(rewards(history), [[nan, nan], [0.1, nan], [nan, -0.2], [0.4, -0.1]])
    draws, mean = binned(history, 4, 2)
    assert draws.tolist() == [[1, 2], [2, 1], [1, 1], [0, 0]]
    np.testing.assert_allclose(mean, [[nan, 0.4], [0.1, -0.2], [nan, -0.1], [nan, nan]])


def test_what_was_drawn_is_kept_and_drawn():
    images, sampler = volumes(), stream_of("random")
    options = Maml(iterations=5, inner_steps=1, tasks_per_step=4)
    model = options.meta_train(sampler, images, Volumes(), Run())
    assert model.history.shape == (5, 2, 4)
    cursor = sampler.start()
    np.testing.assert_array_equal(model.history[0, 0], cursor.draw(4).task)
    again = MamlModel.from_arrays(*model.to_arrays(), {"backbone": Volumes()})
    np.testing.assert_array_equal(again.history, model.history)
    axes = matplotlib.figure.Figure().add_subplot()
    assert again.draw(axes).startswith("20 tasks drawn over 5 meta-iterations, of a list of 6. The larger a dot")
    assert [label.get_text() for label in axes.get_yticklabels()] == [sampler.named(i) for i in range(6)]
    # Of a long list the tasks drawn most often are named.
    rare = np.tile([[[0, 29], [0, 0]]], (4, 1, 1)).astype(np.float32)
    axes = matplotlib.figure.Figure().add_subplot()
    assert "of a list of 30. Some of those drawn often are named." in draw_history(
        rare, list("abcdefghijklmnopqrstuvwxyzABCD"), axes
    )
    assert {"a", "D"} < {label.get_text() for label in axes.get_yticklabels()}

    class Unlisted:
        n_way, n_shot, start = sampler.n_way, sampler.n_shot, sampler.start

    other = options.meta_train(Unlisted(), images, Volumes(), Run())
    assert not hasattr(other, "draw")


def test_the_memory_is_told_before_it_is_taken(caplog):
    tasked = TaskNetwork(Volumes().build(SHAPE, 2, torch_generator(0)))
    forward, graph = bytes_of_image(tasked, SHAPE, 2, torch.device("cpu"))
    map_bytes = 4 * (3 * 4 * 5 * 6)
    # The image, what enters batch norm, what leaves ReLU, and less behind it.
    assert 480 + 2 * map_bytes < forward < 480 + 3 * map_bytes
    assert forward < graph < 10 * forward
    shared = {"n_support": 8, "n_query": 24, "steps": 3}
    both = (10, 30)
    assert estimated_bytes(both, **shared, second_order=False, checkpointing=False) == 240
    assert estimated_bytes(both, **shared, second_order=True, checkpointing=False) == 30 * 8 * 3 + 240
    assert estimated_bytes(both, **shared, second_order=True, checkpointing=True) == 240
    sampler = stream_of("random")
    said_once.say_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="fewcore"):
        Maml(iterations=1, inner_steps=1, first_order=False).meta_train(sampler, volumes(), Volumes(), Run())
    assert "GB of activations" in caplog.text
    assert "checkpointing: true or first_order: true needs less" in caplog.text
    caplog.clear()
    images = two_class_images(24, seed=0, side=16)
    Maml(iterations=1, inner_steps=1).meta_train(sampler, images, Conv4(filters=2), Run())
    assert "GB of activations" not in caplog.text


def test_the_estimate_is_what_a_pass_keeps():
    """Against torch's own count of one more image, by the hooks that see every tensor kept for the backward pass."""
    network = Volumes().build(SHAPE, 2, torch_generator(0)).train()
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    totals = []
    for n in (2, 12):
        seen = {}

        def pack(tensor, seen=seen):
            seen[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            nn.functional.cross_entropy(network(torch.rand(n, *SHAPE)), torch.arange(n) % 2)
        totals.append(sum(t.untyped_storage().nbytes() for at, t in seen.items() if at not in own))
    forward, _ = bytes_of_image(TaskNetwork(network), SHAPE, 2, torch.device("cpu"))
    assert forward == pytest.approx((totals[1] - totals[0]) / 10, rel=0.15)


def test_interrupted_meta_training_on_a_list_of_tasks_keeps_its_history(tmp_path):
    def trained(run):
        options = Maml(iterations=6, inner_steps=1, tasks_per_step=2, norm="support")
        return options.meta_train(stream_of("bandit"), volumes(), Volumes(), run)

    whole = trained(Run(3))
    steps = iter(range(100))
    with pytest.raises(Interrupted):
        trained(Run(3, checkpoints=tmp_path, checkpoint_every=0.0, stop=lambda: next(steps) == 2))
    resumed = trained(Run(3, checkpoints=tmp_path))
    for name, values in whole.to_arrays()[0].items():
        np.testing.assert_array_equal(values, resumed.to_arrays()[0][name])


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    sampler = stream_of("random")
    options = Maml(iterations=3, inner_steps=1, tasks_per_step=4, first_order=False, checkpointing=True)
    first, second = (options.meta_train(sampler, volumes(), Volumes(), Run(0, d)) for d in ("cpu", "cuda"))
    for a, b in zip(first.network.cpu().parameters(), second.network.cpu().parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
