"""conv4: against loops over pixels, against itself task by task, and its exact second derivatives."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from few_shot_samples import own_parameters
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from fewcore import DataError
from fewcore_meta.conv4 import Conv4
from fewcore_meta.second_order import Block
from fewcore_meta.task_scores import task_loss

VARIANTS = {
    "stride": {"filters": 3},
    "pool": {"filters": 3, "downsample": "pool", "head": "xavier"},
    "scale": {"filters": 3, "scale": True, "eps": 1e-5, "initial": "torch"},
}


def build(variant="stride", n_outputs=4, shape=(2, 9, 8), n_blocks=2, dtype=torch.float64):
    network = Conv4(n_blocks=n_blocks, **VARIANTS[variant]).build(shape, n_outputs, torch.Generator().manual_seed(3))
    return network.to(dtype)


def draw(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def transcription(network, x):
    """The forward pass with batch statistics, pixel by pixel."""
    z = x.numpy()
    for block in network.blocks:
        weight, stride = block["convolution"].weight.detach().numpy(), network.stride
        n, c, h, w = z.shape
        padded = np.zeros((n, c, h + 2, w + 2))
        padded[:, :, 1:-1, 1:-1] = z
        rows, columns = -(-h // stride), -(-w // stride)
        y = np.zeros((n, len(weight), rows, columns))
        for i in range(rows):
            for j in range(columns):
                patch = padded[:, :, i * stride : i * stride + 3, j * stride : j * stride + 3]
                y[:, :, i, j] = [[(p * f).sum() for f in weight] for p in patch]
        norm = block["norm"]
        for f in range(len(weight)):
            values = y[:, f]
            normal = (values - values.mean()) / np.sqrt(values.var() + norm.eps)
            y[:, f] = np.maximum(0, norm.weight[f].item() * normal + norm.bias[f].item())
        if network.pools:
            tall, wide = rows // 2, columns // 2
            y = y[:, :, : 2 * tall, : 2 * wide].reshape(n, -1, tall, 2, wide, 2).max((3, 5))
        z = y
    features = z.reshape(len(z), -1) if network.pools else z.mean((2, 3))
    return features @ network.head.weight.detach().numpy().T + network.head.bias.detach().numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_is_the_equations_pixel_by_pixel(variant):
    network, x = build(variant), draw(5, 2, 9, 8)
    with torch.no_grad():
        for block in network.blocks:
            block["norm"].bias.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(0))
    expected = transcription(network, x)
    np.testing.assert_allclose(network.train()(x).detach().numpy(), expected, atol=1e-12)
    both = network.forward_tasks(dict(network.named_parameters()), torch.stack([x, x]))
    np.testing.assert_allclose(both.detach().numpy(), np.stack([expected, expected]), atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_tasks_at_once_equal_the_module_task_by_task(variant):
    network, x = build(variant), draw(3, 6, 2, 9, 8)
    parameters = own_parameters(network, 3)
    at_once = network.forward_tasks(parameters, x)
    network.train()
    for task in range(3):
        alone = functional_call(network, {name: p[task] for name, p in parameters.items()}, (x[task],))
        torch.testing.assert_close(at_once[task], alone, atol=1e-12, rtol=0)


def test_features_have_no_head():
    network, x = build(n_outputs=0), draw(2, 5, 2, 9, 8)
    assert not [name for name, _ in network.named_parameters() if name.startswith("head")]
    assert network.forward_tasks(dict(network.named_parameters()), x).shape == (2, 5, 3)
    assert network.eval()(x[0]).shape == (5, 3)
    assert network.gradient_names == frozenset()


def test_images_that_are_not_counted_change_nothing():
    network = build()
    x, other = draw(2, 6, 2, 9, 8), draw(2, 6, 2, 9, 8, seed=9)
    counted = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]])
    parameters = dict(network.named_parameters())
    mixed = torch.where(counted[:, :, None, None, None] > 0, x, other)
    seen = counted > 0
    a = network.forward_tasks(parameters, x, counted)[seen]
    torch.testing.assert_close(a, network.forward_tasks(parameters, mixed, counted)[seen], atol=1e-12, rtol=0)
    alone = network.forward_tasks(parameters, x[1:, :5])
    torch.testing.assert_close(a[4:], alone[0], atol=1e-12, rtol=0)


def test_running_averages_follow_a_batch_and_serve_evaluation_mode():
    network, x = build(), draw(1, 6, 2, 9, 8)
    parameters = dict(network.named_parameters())
    batch = network.forward_tasks(parameters, x, momentum=1.0)
    torch.testing.assert_close(network.forward_tasks(parameters, x, running=True), batch, atol=1e-12, rtol=0)
    torch.testing.assert_close(network.eval()(x[0]), batch[0], atol=1e-12, rtol=0)


def inner_loss(network, parameters, x, labels, n_way=3):
    return task_loss(network.forward_tasks(parameters, x)[..., :n_way], labels)


@pytest.mark.parametrize("variant", ["stride", "pool"])
def test_loss_gradients_and_their_derivatives_are_those_of_autograd(variant):
    network, x, labels = build(variant, n_blocks=3), draw(3, 6, 2, 9, 8), torch.arange(6).expand(3, 6) % 3
    parameters = own_parameters(network, 3)
    loss, made = network.loss_gradients(parameters, x, labels, 3)
    expected = inner_loss(network, parameters, x, labels)
    names = sorted(network.gradient_names)
    gradients = torch.autograd.grad(expected.sum(), [parameters[n] for n in names], create_graph=True)
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)
    assert set(made) == set(names)
    generator = torch.Generator().manual_seed(5)
    fast = slow = torch.zeros((), dtype=torch.float64)
    for name, gradient in zip(names, gradients, strict=True):
        torch.testing.assert_close(made[name], gradient, atol=1e-11, rtol=0)
        direction = torch.randn(gradient.shape, dtype=gradient.dtype, generator=generator)
        fast, slow = fast + (made[name] * direction).sum(), slow + (gradient * direction).sum()
    every = list(parameters.values())
    for a, b in zip(torch.autograd.grad(fast, every), torch.autograd.grad(slow, every), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@pytest.mark.parametrize("variant", ["stride", "pool"])
def test_derivative_of_the_gradient_agrees_with_finite_differences(variant):
    network, x, labels = build(variant), draw(2, 6, 2, 9, 8), torch.arange(6).expand(2, 6) % 3
    parameters = own_parameters(network, 2)
    _, made = network.loss_gradients(parameters, x, labels, 3)
    directions = {
        name: torch.randn(g.shape, dtype=g.dtype, generator=torch.Generator().manual_seed(7))
        for name, g in made.items()
    }
    along = sum((made[name] * v).sum() for name, v in directions.items())
    exact = dict(zip(parameters, torch.autograd.grad(along, list(parameters.values())), strict=True))
    # The Hessian is symmetric: <v, H w> is the change along w of the gradient in direction v, here w is random too.
    for name in parameters:
        w = torch.randn(parameters[name].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
        ends = []
        for sign in (1, -1):
            moved = {n: p.detach() for n, p in parameters.items()}
            moved[name] = moved[name] + sign * 1e-6 * w
            ends.append(
                sum((g * directions[n]).sum() for n, g in network.loss_gradients(moved, x, labels, 3)[1].items())
            )
        measured = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close((exact[name] * w).sum(), measured, atol=1e-6, rtol=1e-6)


def test_unused_outputs_get_no_gradient():
    network, x = build(n_outputs=6), draw(2, 6, 2, 9, 8)
    _, made = network.loss_gradients(dict(network.named_parameters()), x, torch.arange(6).expand(2, 6) % 3, 3)
    assert made["head.weight"].shape == (2, 6, 3)
    assert not made["head.weight"][:, 3:].any()
    assert not made["head.bias"][:, 3:].any()


def test_gradients_leave_no_cycles_behind():
    # What a backward pass returns must not be kept by its own node: such graphs are freed only by the cycle collector.
    network, x, labels = build(), draw(2, 6, 2, 9, 8), torch.arange(6).expand(2, 6) % 3
    gc.collect()
    gc.disable()
    try:
        _, made = network.loss_gradients(own_parameters(network, 2), x, labels, 3)
        sum(g.sum() for g in made.values()).backward()
        del made
        assert not [o for o in gc.get_objects() if type(o) is Block]
    finally:
        gc.enable()


def test_first_weights_are_those_of_the_paper_and_global_randomness_is_untouched():
    before = torch.get_rng_state()
    network = Conv4(filters=64).build((1, 28, 28), 20, torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())
    again = Conv4(filters=64).build((1, 28, 28), 20, torch.Generator().manual_seed(0))
    for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    weight = network.blocks[1]["convolution"].weight
    bound = (6 / (9 * 64 + 9 * 64)) ** 0.5
    assert 0.95 * bound < weight.abs().max().item() <= bound
    assert abs(network.head.weight.std().item() - 1) < 0.1
    assert not network.head.bias.any()
    xavier = Conv4(downsample="pool", head="xavier").build((3, 84, 84), 5, torch.Generator().manual_seed(0))
    assert xavier.head.in_features == 800
    assert xavier.head.weight.abs().max().item() <= (6 / 805) ** 0.5


def test_the_maps_shrink_as_in_the_papers():
    sizes = []
    network = Conv4().build((1, 28, 28), 5, torch.Generator())
    for block in network.blocks:
        block["convolution"].register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    network(torch.zeros(1, 1, 28, 28))
    assert sizes == [14, 7, 4, 2]
    assert Conv4(filters=64, downsample="pool").build((1, 28, 28), 0, torch.Generator())(
        torch.zeros(2, 1, 28, 28)
    ).shape == (2, 64)


def test_unfit_images_are_refused():
    with pytest.raises(DataError) as caught:
        Conv4(downsample="pool").build((1, 8, 8), 5, torch.Generator())
    assert str(caught.value) == (
        "conv4: found images of 8 x 8 pixels and 4 blocks that pool; expected at least 16 x 16 "
        "(fewer n_blocks, or downsample: stride)"
    )
    with pytest.raises(DataError) as caught:
        Conv4().build((1, 8, 8, 8), 5, torch.Generator())
    assert str(caught.value) == "conv4: found images of shape (1, 8, 8, 8); expected (c, h, w)"


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["stride", "pool"])
def test_cuda_agrees_with_the_cpu(variant):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: the GPU's gradients are not compared with the CPU's")
    results = []
    for device in ("cpu", "cuda"):
        network, x = build(variant).to(device), draw(2, 6, 2, 9, 8).to(device)
        parameters = {n: p.detach().to(device).requires_grad_() for n, p in own_parameters(build(variant), 2).items()}
        labels = torch.arange(6, device=device).expand(2, 6) % 3
        _, made = network.loss_gradients(parameters, x, labels, 3)
        sum(g.square().sum() for g in made.values()).backward()
        results.append([p.grad.cpu() for p in parameters.values()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_plain_module_trains_with_torch():
    network = build(dtype=torch.float32).train()
    assert isinstance(network, nn.Module)
    x = draw(6, 2, 9, 8).float()
    functional.cross_entropy(network(x), torch.arange(6) % 3).backward()
    assert all(p.grad is not None for p in network.parameters())
