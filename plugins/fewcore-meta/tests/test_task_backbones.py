"""Fully connected and residual backbones: against their equations, task by task, their norms, and MAML on embeddings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from few_shot_samples import Tasks, draw, hidden, make_images, own_parameters, saved
from torch.func import functional_call
from torch.nn import functional

from fewcore import DataError, Run
from fewcore_meta.adaptation import TaskNetwork
from fewcore_meta.cactus_resnet import STEM, CactusResNet
from fewcore_meta.fully_connected import FullyConnected
from fewcore_meta.maml import Maml, MamlModel
from fewcore_meta.protonets import ProtoNets
from fewcore_meta.task_scores import mean_accuracy

VARIANTS = {
    "batch": (FullyConnected((7, 5), initial="kaiming"), (6, 1, 1)),
    "scale": (FullyConnected((7, 5), scale=True, initial="kaiming"), (2, 3, 1)),
    "layer": (FullyConnected((7, 5), norm="layer", initial="kaiming"), (6, 1, 1)),
    "none": (FullyConnected((7, 5), norm="none", initial="kaiming"), (6, 1, 1)),
    "residual": (CactusResNet((4, 6)), (2, 17, 16)),
}
BATCH_NORMED = ["batch", "scale", "residual"]


def build(variant, n_outputs=3):
    backbone, shape = VARIANTS[variant]
    return backbone.build(shape, n_outputs, torch.Generator().manual_seed(3)).double()


def pixels(variant, *n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*n, *VARIANTS[variant][1], dtype=torch.float64, generator=generator)


def normal(y, axes, norm=None, eps=1e-3):
    made = (y - y.mean(axes, keepdims=True)) / np.sqrt(y.var(axes, keepdims=True) + eps)
    if norm is None:
        return made
    shape = (1, -1, *[1] * (y.ndim - 2))
    return made * norm.weight.detach().numpy().reshape(shape) + norm.bias.detach().numpy().reshape(shape)


def fully_connected_by_hand(network, x):
    z = x.reshape(len(x), -1).numpy()
    for layer in network.layers:
        z = z @ layer["linear"].weight.detach().numpy().T
        if network.norm == "batch":
            z = normal(z, 0, layer["norm"])
        else:
            z = z + layer["linear"].bias.detach().numpy()
            z = normal(z, 1) if network.norm == "layer" else z
        z = np.maximum(z, 0)
    return z


def convolution_by_hand(layer, x):
    """A sum over taps, each a shifted copy of the padded map."""
    weight, (stride, _), (padding, _) = layer.weight.detach().numpy(), layer.stride, layer.padding
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    k = weight.shape[-1]
    rows, columns = ((side - k) // stride + 1 for side in x.shape[2:])
    made = np.zeros((len(x), len(weight), rows, columns))
    for i in range(k):
        for j in range(k):
            seen = x[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride]
            made += np.einsum("fc,nchw->nfhw", weight[:, :, i, j], seen)
    return made if layer.bias is None else made + layer.bias.detach().numpy()[:, None, None]


def residual_by_hand(network, x):
    z = convolution_by_hand(network.stem, x.numpy())
    for block in network.blocks:
        n, c, h, w = z.shape
        z = z[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))
        y = z
        for layer in range(2):
            y = np.maximum(normal(y, (0, 2, 3), block[f"norm{layer}"]), 0)
            y = convolution_by_hand(block[f"convolution{layer}"], y)
        z = convolution_by_hand(block["shortcut"], z) + y
    return z.mean((2, 3))


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_is_the_equations(variant):
    network, x = build(variant), pixels(variant, 5)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(0))
    by_hand = residual_by_hand if variant == "residual" else fully_connected_by_hand
    expected = by_hand(network, x) @ network.head.weight.detach().numpy().T + network.head.bias.detach().numpy()
    np.testing.assert_allclose(network.train()(x).detach().numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_tasks_at_once_equal_the_module_task_by_task(variant):
    network, x = build(variant), pixels(variant, 3, 6)
    parameters = own_parameters(network, 3)
    at_once = network.forward_tasks(parameters, x)
    network.train()
    for task in range(3):
        alone = functional_call(network, {name: p[task] for name, p in parameters.items()}, (x[task],))
        torch.testing.assert_close(at_once[task], alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("variant", BATCH_NORMED)
def test_images_that_are_not_counted_change_nothing(variant):
    network, x, other = build(variant), pixels(variant, 2, 6), pixels(variant, 2, 6, seed=9)
    counted = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]])
    parameters, seen = dict(network.named_parameters()), counted > 0
    mixed = torch.where(seen[:, :, None, None, None], x, other)
    made = network.forward_tasks(parameters, x, counted)[seen]
    torch.testing.assert_close(made, network.forward_tasks(parameters, mixed, counted)[seen], atol=1e-10, rtol=0)
    torch.testing.assert_close(made[4:], network.forward_tasks(parameters, x[1:, :5])[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("variant", BATCH_NORMED)
def test_running_averages_follow_a_batch_and_serve_evaluation_mode(variant):
    network, x = build(variant), pixels(variant, 1, 6)
    parameters = dict(network.named_parameters())
    batch = network.forward_tasks(parameters, x, momentum=1.0)
    torch.testing.assert_close(network.forward_tasks(parameters, x, running=True), batch, atol=1e-10, rtol=0)
    torch.testing.assert_close(network.eval()(x[0]), batch[0], atol=1e-10, rtol=0)


def test_a_single_image_is_normalised_to_the_offset():
    network, x = build("batch"), pixels("batch", 2, 1)
    made = network.forward_tasks(dict(network.named_parameters()), x)
    torch.testing.assert_close(made, network.head.bias.expand(2, 1, 3))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("norm", ["transductive", "support", "running"])
def test_maml_s_gradient_agrees_with_finite_differences(variant, norm):
    network = build(variant)
    labels, query_labels = torch.arange(3).expand(2, 3), torch.arange(6).expand(2, 6) % 3
    options, tasked = Maml(inner_steps=2, norm=norm), TaskNetwork(network)
    assert not tasked.loops

    def loss():
        x, qx = pixels(variant, 2, 3), pixels(variant, 2, 6, seed=1)
        parameters = tasked.adapt(
            tasked.parameters(2), x, labels, 3, inner_lr=0.05, steps=options.inner_steps, second_order=True
        )
        logits = tasked.query_logits(parameters, x, qx, None, 3, norm, 0.1 if norm == "running" else 0.0)
        return functional.cross_entropy(logits.flatten(0, 1), query_labels.flatten())

    made = torch.autograd.grad(loss(), list(network.parameters()))
    generator = torch.Generator().manual_seed(4)
    # Small steps, for ReLU and pooling have corners.
    direction = [torch.randn(p.shape, dtype=torch.float64, generator=generator) for p in network.parameters()]
    ends = []
    for step in (1e-7, -2e-7):
        with torch.no_grad():
            for p, d in zip(network.parameters(), direction, strict=True):
                p.add_(d, alpha=step)
        ends.append(float(loss().detach()))
    expected = (ends[0] - ends[1]) / 2e-7
    assert abs(float(sum((g * d).sum() for g, d in zip(made, direction, strict=True))) - expected) < 1e-4 * max(
        1, abs(expected)
    )


def test_first_weights():
    network = FullyConnected((400, 300)).build((50, 1, 1), 10, torch.Generator().manual_seed(0))
    for layer in network.layers:
        weight = layer["linear"].weight.detach()
        assert layer["linear"].bias is None
        # a normal distribution cut at two standard deviations has 0.88 of its standard deviation
        assert float(weight.std()) == pytest.approx(0.0088, rel=0.02)
        assert float(weight.abs().max()) <= 0.02
    assert not network.head.bias.any()
    paper = CactusResNet().build((3, 224, 224), 0, torch.Generator().manual_seed(0))
    assert [block["shortcut"].weight.shape[:2] for block in paper.blocks] == [
        (64, STEM),
        (128, 64),
        (256, 128),
        (512, 256),
    ]


def test_what_cannot_be_is_refused():
    for hidden_layers in ((), (4, 0)):
        with pytest.raises(ValueError, match=r"^hidden: found \[.*\]; expected one or more positive numbers of units$"):
            FullyConnected(hidden_layers)
    with pytest.raises(ValueError, match=r"^widths: found \[\]; expected one or more positive numbers of channels$"):
        CactusResNet(())
    with pytest.raises(
        DataError, match=r"^cactus-resnet: found images of 30 x 64 pixels and 4 blocks; expected at least 31"
    ):
        CactusResNet().build((3, 30, 64), 5, torch.Generator())
    CactusResNet((2, 2, 2, 2)).build((3, 31, 31), 5, torch.Generator()).eval()(torch.rand(2, 3, 31, 31))
    with pytest.raises(
        DataError, match=r"^cactus-resnet: found images of shape \(3, 8, 32, 32\); expected \(c, h, w\)$"
    ):
        CactusResNet().build((3, 8, 32, 32), 5, torch.Generator())


class Stream(Tasks):
    """Endless tasks from the classes of images."""

    def __init__(self, images, way):
        super().__init__(draw(images, 1, way, 1))
        self._images, self._way, self.place = images, way, 0

    def start(self):
        return Stream(self._images, self._way)

    def draw(self, t):
        self.place += 1
        return draw(self._images, t, self._way, 1, seed=self.place)

    def observe(self, batch, scores):
        pass

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def noisy_vectors(seed):
    """Vectors as images, (n, 16, 1, 1): the first four numbers tell the class, the others are noise."""
    images = make_images(n_classes=30, each=10, dim=16, spread=0.2, seed=seed)
    vectors = images.images.copy()
    vectors[:, 4:] = np.random.default_rng(seed).normal(size=(300, 12, 1, 1))
    return replace(images, images=vectors)


@pytest.mark.parametrize("method", ["maml", "protonets"])
def test_meta_training_on_embeddings_beats_none_and_serves_narrower_tests(method):
    images, other = noisy_vectors(0), noisy_vectors(1)
    backbone = FullyConnected(initial="kaiming")
    accuracies = []
    for iterations in (1, 50):
        if method == "maml":
            learner = Maml(inner_steps=2, iterations=iterations, tasks_per_step=4, test_steps=5, learning_rate=5e-3)
        else:
            learner = ProtoNets(iterations=iterations, learning_rate=5e-3)
        # Trained with ten classes a task, tested with five: MAML's outputs 5 to 9 serve no class.
        model = learner.meta_train(Stream(images, 10), images, backbone, Run(seed=1))
        batch = draw(other, 60, 5, 1)
        scores = model.classify(hidden(batch), other, Run())
        assert scores.shape == (60, 25, 5)
        np.testing.assert_array_equal(saved(model, backbone=backbone).classify(hidden(batch), other, Run()), scores)
        accuracies.append(mean_accuracy(scores, batch))
    assert accuracies[1] > accuracies[0] + 0.05


def test_pruning_is_the_same_as_a_network_of_fewer_outputs():
    images = noisy_vectors(0)
    backbone = FullyConnected(initial="kaiming")
    model = Maml(iterations=3, tasks_per_step=2, test_steps=10).meta_train(Stream(images, 20), images, backbone, Run())
    assert model.max_way == 20
    batch = hidden(draw(images, 4, 5, 2))
    narrow = backbone.build(images.shape, 5, torch.Generator())
    state = model.network.state_dict()
    narrow.load_state_dict({name: v[:5] if name.startswith("head.") else v for name, v in state.items()})
    pruned = MamlModel(model.options, narrow, images.shape, 5)
    np.testing.assert_allclose(model.classify(batch, images, Run()), pruned.classify(batch, images, Run()), atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("variant", VARIANTS)
def test_cuda_equals_cpu(variant):
    network, x = build(variant), pixels(variant, 3, 6)  # float64: a GPU's convolutions have ten bits otherwise
    parameters = own_parameters(network, 3)
    on_cpu = network.forward_tasks(parameters, x)
    on_gpu = network.cuda().forward_tasks({n: p.cuda() for n, p in parameters.items()}, x.cuda()).cpu()
    torch.testing.assert_close(on_cpu, on_gpu, atol=1e-9, rtol=1e-9)
