"""The narrow DenseNet: MONAI's blocks, maps that never vanish, and weights from the generator alone."""

import pytest
import torch
from torch.nn import functional

from fewcore import DataError, torch_generator
from fewcore_medical.densenet import DenseNet, halved


def plain(network, x, blocks):
    """The forward pass written out in training mode: batch norm by the batch, everything named as MONAI names it."""
    p = dict(network.named_parameters())

    def normed(h, name):
        axes = [0, *range(2, h.dim())]
        h = (h - h.mean(axes, keepdim=True)) / (h.var(axes, keepdim=True, unbiased=False) + 1e-5).sqrt()
        shape = [1, -1, *[1] * (h.dim() - 2)]
        return h * p[f"{name}.weight"].view(shape) + p[f"{name}.bias"].view(shape)

    conv, pool = (
        (functional.conv2d, functional.avg_pool2d) if x.dim() == 4 else (functional.conv3d, functional.avg_pool3d)
    )
    h = normed(conv(x, p["features.conv0.weight"], stride=2, padding=1), "features.norm0").relu()
    for number, layers in enumerate(blocks, 1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{number}.denselayer{layer}.layers"
            new = conv(normed(h, f"{name}.norm1").relu(), p[f"{name}.conv1.weight"])
            new = conv(normed(new, f"{name}.norm2").relu(), p[f"{name}.conv2.weight"], padding=1)
            h = torch.cat([h, new], 1)
        if number < len(blocks):
            name = f"features.transition{number}"
            h = conv(normed(h, f"{name}.norm").relu(), p[f"{name}.conv.weight"])
            kernel = [2 if side >= 4 else 1 for side in h.shape[2:]]
            h = pool(h, kernel)
    h = normed(h, "features.norm5").relu()
    return h.flatten(2).mean(2) @ p["head.weight"].T + p["head.bias"]


@pytest.mark.parametrize("shape", [(1, 10, 24, 16), (2, 33, 20)])
def test_it_is_the_network_that_is_described(shape):
    options = DenseNet(blocks=(2, 1, 2), filters=4, growth=3, bottleneck=2)
    network = options.build(shape, 3, torch_generator(0)).double()
    x = torch.randn(4, *shape, generator=torch_generator(1), dtype=torch.float64)
    torch.testing.assert_close(network(x), plain(network, x, options.blocks))


def test_features_are_the_mean_of_the_last_map_and_the_head_is_on_top():
    network = DenseNet().build((1, 16, 32, 32), 2, torch_generator(0)).eval()
    x = torch.randn(2, 1, 16, 32, 32, generator=torch_generator(1))
    with torch.no_grad():
        cells = network.feature_map(x)
        assert cells.shape == (2, network.dim, 2, 2, 2)
        torch.testing.assert_close(network(x), network.head(cells.mean((2, 3, 4))))
    assert {name for name, _ in network.named_parameters() if name.startswith("head.")} == {"head.weight", "head.bias"}
    assert isinstance(DenseNet().build((1, 16, 32, 32), 0, torch_generator(0)).head, torch.nn.Identity)


@pytest.mark.parametrize(
    "size,wanted", [((12, 24, 24), (6, 12, 12)), ((3, 6, 6), (3, 3, 3)), ((2, 3, 4), (2, 3, 2)), ((5, 4), (2, 2))]
)
def test_no_side_is_halved_below_two_pixels(size, wanted):
    assert halved(size) == wanted


@pytest.mark.parametrize("shape", [(1, 50, 100, 100), (1, 2, 5, 64), (3, 64, 64)])
def test_images_of_any_size_fit(shape):
    network = DenseNet(filters=2, growth=2).build(shape, 0, torch_generator(0)).eval()
    with torch.no_grad():
        found = network.feature_map(torch.zeros(1, *shape))
    if shape == (1, 50, 100, 100):
        assert tuple(found.shape[2:]) == (3, 3, 3)
    assert min(found.shape[2:]) >= 1


def test_weights_come_from_the_generator_alone():
    before = torch.random.get_rng_state()
    first, same, other = (DenseNet().build((1, 16, 16, 16), 2, torch_generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name in ("head.weight", "features.conv0.weight", "features.denseblock5.denselayer2.layers.conv2.weight"):
        assert torch.equal(first.state_dict()[name], same.state_dict()[name])
        assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_shapes_that_are_no_images_are_refused():
    with pytest.raises(DataError, match=r"^densenet: found images \(8, 8\); expected \(c, h, w\) or \(c, d, h, w\)"):
        DenseNet().build((8, 8), 0, torch_generator(0))
    with pytest.raises(DataError, match=r"^densenet: found images \(1, 1, 8, 8\).* 2 pixels a side"):
        DenseNet().build((1, 1, 8, 8), 0, torch_generator(0))
    with pytest.raises(ValueError, match=r"^blocks: found \[2, 0\]"):
        DenseNet(blocks=(2, 0))


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    network = DenseNet().build((1, 16, 32, 32), 2, torch_generator(0)).eval()
    x = torch.randn(2, 1, 16, 32, 32, generator=torch_generator(1))
    with torch.no_grad():
        wanted = network(x)
        torch.testing.assert_close(network.cuda()(x.cuda()).cpu(), wanted, rtol=1e-3, atol=1e-3)
