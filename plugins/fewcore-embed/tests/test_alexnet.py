"""AlexNet's sizes against the published ones, its first weights, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fewcore import Backbone, DataError, torch_generator
from fewcore_embed.alexnet import AlexNet, AlexNetNetwork, map_side

THIN = AlexNet(width=0.05)


def build(shape, n_outputs=0, component=THIN, seed=0):
    return component.build(shape, n_outputs, torch_generator(seed))


@pytest.mark.parametrize(
    ("side", "stem", "left"), [(224, "11x11", 6), (64, "5x5", 3), (64, "11x11", 1), (40, "5x5", 1)]
)
def test_sides_of_the_last_map(side, stem, left):
    """224 pixels leave 6 x 6; of 64 the paper's first convolution leaves a single number, the smaller one 3 x 3."""
    assert map_side(side, stem) == left
    network = build((3, side, side), component=AlexNet(width=0.02, stem=stem))
    with torch.no_grad():
        assert network.features(torch.zeros(1, 3, side, side)).shape[2:] == (left, left)


@pytest.mark.parametrize(("side", "kernel"), [(63, 5), (127, 5), (128, 11), (224, 11)])
def test_auto_takes_the_papers_first_convolution_from_128_pixels(side, kernel):
    assert build((1, side, side)).features[0].kernel_size == (kernel, kernel)


def test_the_full_network_has_the_papers_numbers():
    with torch.device("meta"):
        convolutions = [nn.Conv2d(2, 96, 11, bias=False), nn.Conv2d(96, 256, 5, bias=False)]
        convolutions += [nn.Conv2d(a, b, 3, bias=False) for a, b in ((256, 384), (384, 384), (384, 256))]
        units = [nn.Linear(256 * 6 * 6, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 1000)]
        network = AlexNetNetwork((2, 224, 224), 1000, "11x11", 1.0, 0.5)
    expected = sum(p.numel() for layer in (*convolutions, *units) for p in layer.parameters())
    expected += 2 * (96 + 256 + 384 + 384 + 256)
    assert sum(p.numel() for p in network.parameters()) == expected


def test_first_weights_are_drawn_from_the_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (build((3, 64, 64), 4, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    wide = build((3, 64, 64), component=AlexNet(width=0.25))
    assert float(wide.features[4].weight.detach().std()) == pytest.approx((2 / (25 * 64)) ** 0.5, rel=0.05)
    assert float(wide.classifier[1].weight.detach().std()) == pytest.approx(0.01, rel=0.05)


def test_it_is_a_backbone_with_features_and_a_head():
    assert isinstance(THIN, Backbone)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 1, 64, 80)).astype(np.float32))
    features, outputs = build((1, 64, 80)).eval(), build((1, 64, 80), 7).eval()
    with torch.no_grad():
        assert features(x).shape == (3, 205)
        assert float(features(x).min()) >= 0
        assert outputs(x).shape == (3, 7)
        torch.testing.assert_close(outputs(x), outputs.head(features(x)))
    heads = {name for name, _ in outputs.named_parameters() if name.startswith("head.")}
    assert heads == {"head.weight", "head.bias"}


def test_errors_say_what_to_do():
    message = (
        r"^alexnet: found images \(1, 28, 28\); expected at least 29 pixels a side for the first convolution 5x5 \("
    )
    with pytest.raises(DataError, match=message + r"set a larger image size\)$"):
        build((1, 28, 28))
    build((1, 29, 29))
    with pytest.raises(DataError, match=r"at least 63 pixels .* 11x11 \(type stem: 5x5, or set a larger image size\)$"):
        build((1, 62, 62), component=AlexNet(width=0.02, stem="11x11"))
    build((1, 63, 63), component=AlexNet(width=0.02, stem="11x11"))
    with pytest.raises(DataError, match=r"^alexnet: found images \(1, 8, 64, 64\); expected 2-D images \(c, h, w\)$"):
        build((1, 8, 64, 64))
