"""The networks: their widths, that each image stands alone, and dropout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fewcore import Run
from fewcore_s4mtl.models import Architecture, Shape, drawn
from fewcore_s4mtl.networks import Discriminator, Dropout, Generator
from fewcore_s4mtl.training import own_randomness


@pytest.mark.parametrize("p", [0.1, 0.4, 0.9])
def test_dropout_leaves_out_the_share_it_should_and_scales_the_rest(p):
    layer, x = Dropout(p).train(), torch.ones(401, 501, requires_grad=True)
    with own_randomness(Run(0)):
        y = layer(x)
    y.sum().backward()
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    np.testing.assert_allclose(y[y > 0].detach().unique().numpy(), 1 / (1 - p), rtol=1e-3)
    assert torch.equal(x.grad, y.detach())
    # Neighbours are left out independently.
    out = (y.detach() == 0).float()
    assert (out[:, 1:] * out[:, :-1]).mean().item() == pytest.approx(p * p, abs=0.005)
    assert layer.eval()(x) is x


def test_dropout_draws_from_the_run_and_leaves_global_randomness_alone():
    layer, x = Dropout(0.4).train(), torch.ones(64)
    before = torch.get_rng_state()
    made = []
    for seed in (0, 0, 1):
        with own_randomness(Run(seed)):
            made.append(layer(x))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert torch.equal(before, torch.get_rng_state())


def test_every_convolution_of_both_networks_is_followed_by_dropout():
    nets = Generator(1, 1, 4, 3, 0.4, "bilinear"), Discriminator(2, 4, 4, 3, 0.4)
    for net, convolutions in zip(nets, (2 * 4 + 2 * 3, 4), strict=True):
        assert not any(isinstance(layer, nn.Dropout) for layer in net.modules())
        assert sum(isinstance(layer, Dropout) and layer.p == 0.4 for layer in net.modules()) == convolutions
        assert sum(isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3) for c in net.modules()) == convolutions


def test_filters_double_as_the_card_of_the_networks_says():
    net = Generator(1, 1, 32, 4, 0.4, "bilinear")
    widths = [level[-1].shape[1] for level in [[one] for one in net.eval().encoded(torch.zeros(1, 1, 64, 64))]]
    assert widths == [32, 64, 128, 256, 512]
    strides = [block.conv for block in Discriminator(2, 4, 32, 4, 0.4).blocks]
    assert [(conv.out_channels, conv.stride) for conv in strides] == [(w, (2, 2)) for w in widths]


@pytest.mark.parametrize("kind", ["adversarial", "u-mtl", "u-net", "conv-net"])
def test_an_image_is_judged_alone_and_probabilities_are_probabilities(kind):
    structures, classes = (0 if kind == "conv-net" else 2), (0 if kind == "u-net" else 3)
    model = drawn(Architecture(kind, 1, structures, classes, Shape(2, 2, 0.4)), Run(0)).eval()
    x = torch.randn(5, 1, 20, 17, generator=Run(1).generator)
    with torch.no_grad():
        said, alone = model(x), model(x[2:3])
    for one, other in zip(said, alone, strict=True):
        if one is not None:
            assert one.min() >= 0
            assert one.max() <= 1
            torch.testing.assert_close(one[2:3], other)


def test_a_zero_mask_keeps_the_discriminator_as_it_is():
    zero = drawn(Architecture("conv-net", 1, 1, 3, Shape(2, 2, 0.0)), Run(0)).eval()
    pair = drawn(Architecture("adversarial", 1, 1, 2, Shape(2, 2, 0.0)), Run(0)).eval()
    wanted = {name: value.shape for name, value in pair.discriminator.state_dict().items()}
    assert {name: value.shape for name, value in zero.discriminator.state_dict().items()} == wanted
    x = torch.randn(3, 1, 16, 16, generator=Run(1).generator)
    beside = torch.cat([x, torch.zeros_like(x)], 1)
    torch.testing.assert_close(zero.logits(x), zero.discriminator(beside))
