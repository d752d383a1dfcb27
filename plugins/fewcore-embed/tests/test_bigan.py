"""BiGAN against literal transcriptions of its losses and networks, and what fewcore asks of every embedder."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from generative_samples import (
    check_bad_images,
    check_cuda,
    check_resuming,
    check_saving,
    check_seeds,
    double,
    image_set,
    of_pixels,
    slow_norm,
    two_sorts,
)

from fewcore import NumericalError, Run, torch_generator
from fewcore_embed.adversarial import telling_loss
from fewcore_embed.bigan import Bigan, _groups, fill_gradients, learning_rate_share, swapped_loss
from fewcore_embed.bigan_networks import BiganNetwork, Conditioning, build_pair, cut
from fewcore_embed.image_kind import ImageKind
from fewcore_embed.layers import draw_equal_weights

TOY = {"dim": 4, "width": 0.02, "epochs": 1, "decay_epochs": 1, "batch_size": 8, "statistics_batches": 3}
CROPS = {**TOY, "network": "alexnet", "short_side": 66}
EPS = 1e-8


def networks(shape=(1, 6, 6), kind="permutation-invariant", width=0.01, dim=3):
    options = {"network": kind, "dim": dim, "short_side": 64, "width": width}
    network = BiganNetwork(ImageKind(shape, (0.0, 1.0)), options)
    return network, build_pair(network)


def slow_bce(logits, label):
    odds = [1 / (1 + math.exp(-float(v))) for v in logits]
    return -sum(math.log(p if label else 1 - p) for p in odds) / len(odds)


def test_losses_are_those_of_the_equations():
    real, fake = torch.randn(2, 7, generator=torch_generator(0), dtype=torch.float64)
    telling = (slow_bce(real, 1) + slow_bce(fake, 0)) / 2
    swapped = (slow_bce(real, 0) + slow_bce(fake, 1)) / 2
    assert telling_loss(real, fake).item() == pytest.approx(telling, abs=1e-12)
    assert swapped_loss(real, fake).item() == pytest.approx(swapped, abs=1e-12)
    even = torch.zeros(5)
    assert telling_loss(even, even).item() == swapped_loss(even, even).item() == pytest.approx(math.log(2))
    sure = torch.tensor([1e4])
    assert telling_loss(-sure, sure).item() == 1e4  # where a sigmoid would have been rounded to 0 or 1


def slow_flat_codes(p, x):
    h = F.leaky_relu(x.flatten(1) @ p["layers.1.weight"].T, 0.2)
    h = F.leaky_relu(slow_norm(h @ p["layers.3.weight"].T, EPS), 0.2)
    return 2 / (1 + torch.exp(-(h @ p["layers.6.weight"].T))) - 1


def slow_flat_pictures(p, z):
    h = slow_norm(z @ p["first.0.weight"].T, EPS).clamp(min=0)
    h = slow_norm(h @ p["second.weight"].T + z @ p["of_z.weight"].T, EPS).clamp(min=0)
    return 1 / (1 + torch.exp(-(h @ p["last.2.weight"].T)))


def slow_flat_logits(p, x, z):
    h = F.leaky_relu(x.flatten(1) @ p["first.1.weight"].T, 0.2)
    h = F.leaky_relu(slow_norm(h @ p["second.weight"].T + z @ p["of_z.weight"].T, EPS), 0.2)
    return (h @ p["last.2.weight"].T)[:, 0]


def test_gradients_are_those_of_two_losses_with_networks_written_out():
    generator = torch_generator(1)
    network, pair = networks()
    for part in (network, *pair):
        double(part, generator)
    x = torch.rand(9, 1, 6, 6, generator=generator, dtype=torch.float64)
    z = 2 * torch.rand(9, 3, generator=generator, dtype=torch.float64) - 1
    losses = fill_gradients(network, pair, x, z)
    copies = [{n: p.detach().clone().requires_grad_() for n, p in part.named_parameters()} for part in (network, *pair)]
    e, g, d = copies
    made = slow_flat_pictures(g, z)
    real, fake = slow_flat_logits(d, x, slow_flat_codes(e, x)), slow_flat_logits(d, made, z)
    telling = -(torch.sigmoid(real).log().mean() + (1 - torch.sigmoid(fake)).log().mean()) / 2
    swapped = -((1 - torch.sigmoid(real)).log().mean() + torch.sigmoid(fake).log().mean()) / 2
    torch.testing.assert_close(losses.discriminator, telling.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(losses.encoder, swapped.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(losses.made.flatten(1), made.detach(), rtol=1e-9, atol=1e-9)
    ours = [*e.values(), *g.values()]
    slow = [*torch.autograd.grad(swapped, ours, retain_graph=True), *torch.autograd.grad(telling, list(d.values()))]
    found = [p.grad for part in (network, *pair) for p in part.parameters()]
    assert len(found) == len(slow) == 3 + 4 + 4
    for one, other in zip(found, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def slow_deconv(x, kernel):
    """Put zeros between the pixels of x, then convolve with the turned kernel: 5 x 5, stride 2, twice the size."""
    n, c, h, w = x.shape
    spread = x.new_zeros(n, c, 2 * h, 2 * w)
    spread[:, :, ::2, ::2] = x
    return F.conv2d(F.pad(spread, (2, 2, 2, 2)), kernel.flip(2, 3).transpose(0, 1))


def test_convolutions_are_those_written_out():
    generator = torch_generator(2)
    network, pair = networks((3, 64, 64), "alexnet", width=0.04)
    for part in (network, *pair):
        double(part, generator)
    e, g, d = ({n: p.detach() for n, p in part.named_parameters()} for part in (network, *pair))
    x = 2 * torch.rand(3, 3, 64, 64, generator=generator, dtype=torch.float64) - 1
    z = 2 * torch.rand(3, 3, generator=generator, dtype=torch.float64) - 1

    h = slow_norm(z @ g["first.0.weight"].T, EPS, g["first.1.weight"], g["first.1.bias"]).clamp(min=0)
    h = h.reshape(3, -1, 4, 4)
    for i in range(3):
        h = slow_deconv(h, g[f"convs.{i}.weight"]) + (z @ g[f"of_z.{i}.weight"].T)[:, :, None, None]
        h = slow_norm(h, EPS, g[f"norms.{i}.weight"], g[f"norms.{i}.bias"]).clamp(min=0)
    pictures = 2 / (1 + torch.exp(-slow_deconv(h, g["last.weight"]))) - 1
    assert pictures.shape == (3, 3, 64, 64)
    torch.testing.assert_close(pair.generator(z).detach(), pictures, rtol=1e-8, atol=1e-8)

    h = F.leaky_relu(F.conv2d(F.pad(x, (2,) * 4), d["first.0.weight"])[:, :, ::2, ::2], 0.2)
    for i in range(3):
        h = F.conv2d(F.pad(h, (2,) * 4), d[f"convs.{i}.weight"])[:, :, ::2, ::2]
        h = h + (z @ d[f"of_z.{i}.weight"].T)[:, :, None, None]
        h = F.leaky_relu(slow_norm(h, EPS, d[f"norms.{i}.0.weight"], d[f"norms.{i}.0.bias"]), 0.2)
    logits = (h.flatten(1) @ d["last.weight"].T)[:, 0]
    torch.testing.assert_close(pair.discriminator(x, z).detach(), logits, rtol=1e-8, atol=1e-8)

    def grouped(y, kernel, groups):
        parts = zip(y.chunk(groups, 1), kernel.chunk(groups, 0), strict=True)
        return torch.cat([F.conv2d(F.pad(part, (kernel.shape[-1] // 2,) * 4), k) for part, k in parts], 1)

    def pooled(y):
        y = F.pad(y, (1, 1, 1, 1), value=-math.inf)
        return y.unfold(2, 3, 2).unfold(3, 3, 2).amax((-2, -1))

    h = pooled(F.leaky_relu(grouped(x, e["layers.0.weight"], 1)[:, :, ::4, ::4], 0.2))
    for place, groups in ((3, 2), (7, 1), (10, 2), (13, 2)):
        h = grouped(h, e[f"layers.{place}.weight"], groups)
        h = F.leaky_relu(slow_norm(h, EPS, e[f"layers.{place + 1}.weight"], e[f"layers.{place + 1}.bias"]), 0.2)
        h = pooled(h) if place == 3 else h
    assert h.shape[2:] == (4, 4)
    codes = torch.tanh(h.flatten(1) @ e["layers.17.weight"].T / 2)
    torch.testing.assert_close(network.codes(x).detach(), codes, rtol=1e-8, atol=1e-8)


def test_networks_have_the_sizes_of_the_paper():
    """MNIST: 784 pixels, 50 codes, layers of 1024 without biases. ImageNet: 64 x 64, 200 codes; gain and bias a channel."""

    def count(network):
        return sum(p.numel() for p in network.parameters())

    network, pair = networks((1, 28, 28), width=1.0, dim=50)
    assert count(network) == 784 * 1024 + 1024**2 + 1024 * 50
    assert count(pair.generator) == 50 * 1024 + 1024**2 + 50 * 1024 + 1024 * 784
    assert count(pair.discriminator) == 784 * 1024 + 1024**2 + 50 * 1024 + 1024
    network, pair = networks((3, 64, 64), "alexnet", width=1.0, dim=200)
    convs = [121 * 3 * 96, 25 * 48 * 256, 9 * 256 * 384, 9 * 192 * 384, 9 * 192 * 256]
    assert count(network) == sum(convs) + 2 * (256 + 384 + 384 + 256) + 256 * 16 * 200
    plan = [(64, 128), (128, 256), (256, 512)]
    middle = sum(25 * a * b for a, b in plan)
    critic = 25 * 3 * 64 + middle + sum(200 * b + 2 * b for _, b in plan) + 512 * 16
    assert count(pair.discriminator) == critic
    first = 200 * 512 * 16 + 2 * 512 * 16
    assert count(pair.generator) == first + middle + sum(200 * a + 2 * a for a, _ in plan) + 25 * 64 * 3


def test_initial_weights_have_the_spread_of_the_paper():
    network, pair = networks((3, 64, 64), "alexnet", width=0.5, dim=200)
    for part in (network, *pair):
        draw_equal_weights(part, 0.02, torch_generator(0))
    assert network.layers[3].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert pair.generator.convs[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert pair.discriminator.of_z[2].weight.std().item() == pytest.approx(0.02 * 25, rel=0.05)
    assert Conditioning(3, 4).spread == 0.02


def test_the_learning_rate_is_constant_then_falls_to_a_hundredth():
    shares = [learning_rate_share(epoch, 3, 4) for epoch in range(7)]
    assert shares[:3] == [1, 1, 1]
    assert shares[-1] == pytest.approx(0.01)
    ratios = [after / before for before, after in pairwise(shares[2:])]
    np.testing.assert_allclose(ratios, 0.01 ** (1 / 4))


def test_gains_alone_do_not_decay():
    _, pair = networks((3, 64, 64), "alexnet")
    decaying, kept = _groups(tuple(pair), 0.1)
    assert (decaying["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    parts = [dict(part.named_parameters()) for part in pair]
    gains = {id(p) for part in parts for n, p in part.items() if "norms" in n and n.endswith("weight")}
    gains.add(id(parts[0]["first.1.weight"]))
    assert {id(p) for p in kept["params"]} == gains
    assert len(decaying["params"]) + len(gains) == sum(len(part) for part in parts)
    assert len(_groups(tuple(networks()[1]), 0.1)) == 1


def test_cuts_are_the_pixels_from_each_corner_on():
    x = torch.rand(4, 3, 9, 11, generator=torch_generator(0))
    top, left = torch.tensor([0, 4, 2, 3]), torch.tensor([6, 0, 5, 1])
    found = cut(x, top, left, 5)
    for i in range(4):
        torch.testing.assert_close(found[i], x[i, :, top[i] : top[i] + 5, left[i] : left[i] + 5], rtol=0, atol=0)


def test_crops_are_random_in_training_and_central_otherwise():
    options = {"network": "alexnet", "dim": 3, "short_side": 72, "width": 0.02}
    network = BiganNetwork(ImageKind((1, 72, 90), (-1.0, 3.0)), options)
    x = torch.rand(200, 1, 72, 90, generator=torch_generator(0)) * 4 - 1
    unit = (x + 1) / 2 - 1
    central = network.prepared(x)
    torch.testing.assert_close(central, unit[:, :, 4:68, 13:77])
    crops = network.prepared(x, torch_generator(1))
    assert crops.shape == (200, 1, 64, 64)
    corners = [
        next((t, s) for t in range(9) for s in range(27) if torch.allclose(crop, image[:, t : t + 64, s : s + 64]))
        for crop, image in zip(crops[:40], unit[:40], strict=True)
    ]
    assert {t for t, _ in corners} >= {0, 8} or len({t for t, _ in corners}) > 5
    assert len({s for _, s in corners}) > 12
    larger = BiganNetwork(ImageKind((1, 144, 100), (0.0, 1.0)), options).prepared(torch.zeros(2, 1, 144, 100))
    assert larger.shape == (2, 1, 64, 64)
    assert float(larger.max()) == -1


def test_pictures_choose_the_layers():
    small, large = Bigan(**TOY).fit(image_set(), Run(0)), Bigan(**TOY).fit(image_set(n=4, size=64), Run(0))
    assert small.network.flat
    assert not large.network.flat
    assert Bigan(**{**TOY, "network": "permutation-invariant"}).fit(image_set(n=4, size=64), Run(0)).network.flat


@pytest.mark.parametrize(
    "options,images",
    [
        (TOY, image_set()),
        (TOY, image_set(channels=2, dtype=np.float16, value_range=(0, 1))),
        (CROPS, image_set(n=10, size=40, channels=3, dtype=np.float32, value_range=(0, 1))),
    ],
)
def test_embeddings_have_the_promised_shape_and_survive_saving(options, images):
    encoder = Bigan(**options).fit(images, Run(0))
    assert np.abs(encoder.embed(images, Run(0))).max() < 1
    assert encoder.sheet.pictures.shape[:2] == (80, images.shape[0])
    check_saving(encoder, images)


def test_seed_decides_and_global_state_is_left_alone():
    check_seeds(Bigan(**TOY), image_set())


@pytest.mark.parametrize("options,size", [(TOY, 8), (CROPS, 40)])
def test_interrupted_training_ends_with_the_same_bits(options, size, tmp_path):
    check_resuming(Bigan(**options), image_set(size=size), tmp_path)


def test_the_last_statistics_are_those_of_the_images():
    """The first norm of the encoder sees a linear map of rectified linear maps: its mean is computed by hand."""
    images = two_sorts()
    encoder = Bigan(**{**TOY, "batch_size": 64, "statistics_batches": 2}).fit(images, Run(0))
    x = torch.from_numpy(images.images).float().flatten(1) / 255
    layers = encoder.network.layers
    h = F.leaky_relu(x @ layers[1].weight.T, 0.2) @ layers[3].weight.T
    torch.testing.assert_close(layers[4].running_mean, h.mean(0).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layers[4].running_var, h.var(0).detach(), rtol=1e-4, atol=1e-7)


def test_generator_and_encoder_learn():
    """Samples come nearer to the pictures than those of the first step, by half, and codes tell the two sorts apart."""
    images = two_sorts()
    known = torch.from_numpy(images.images).float().flatten(1) / 255
    options = {"dim": 4, "width": 0.05, "decay_epochs": 0, "batch_size": 32, "statistics_batches": 10}

    def distance(encoder):
        samples = torch.from_numpy(encoder.sheet.pictures[20:]).float().flatten(1) / 255
        return torch.cdist(samples, known).amin(1).mean().item()

    run = Run(0)
    trained = Bigan(**options, epochs=75, learning_rate=5e-3).fit(images, run)
    start = Bigan(**options, epochs=1, learning_rate=0.0).fit(images, Run(0))
    assert distance(trained) < 0.5 * distance(start)
    assert set(run.records[0]) == {"loop", "step", "discriminator", "encoder"}
    vectors = trained.embed(images, run)
    apart = np.linalg.norm(vectors[:, None] - vectors, axis=2) + 9 * np.eye(len(vectors))
    assert np.mean(apart.argmin(1) % 2 == np.arange(64) % 2) > 0.9


def test_samples_that_are_all_alike_stop_the_training():
    """Ten units of small weights that never change make pictures of one grey."""
    images = of_pixels(np.random.default_rng(0).integers(0, 2, (32, 1, 8, 8)).astype(np.uint8) * 255)
    component = Bigan(**{**TOY, "width": 0.01, "epochs": 30, "learning_rate": 0.0, "patience": 50})
    message = (
        r"^bigan: at step 49 the generated pictures have been all alike for 50 steps, their variance less than 0\.001 of the "
        r"data's; expected as many sorts as there are in the data \(lower learning_rate, try another seed, or raise "
        r"patience\)$"
    )
    with pytest.raises(NumericalError, match=message):
        component.fit(images, Run(0))


def test_a_loss_that_is_no_number_stops_the_training():
    component = Bigan(**{**TOY, "epochs": 20, "learning_rate": 1e30})
    with pytest.raises(
        NumericalError, match=r"run: (discriminator|encoder) is (nan|inf) at step \d+; .*lower the learning"
    ):
        component.fit(image_set(), Run(0))


def test_errors_say_what_to_do():
    check_bad_images(Bigan(**TOY), "bigan")


def test_options_have_the_paper_defaults():
    paper = Bigan()
    assert (paper.dim, paper.batch_size, paper.learning_rate, paper.weight_decay) == (200, 128, 2e-4, 2.5e-5)
    assert (paper.epochs, paper.decay_epochs, paper.statistics_batches, paper.short_side) == (200, 200, 1000, 72)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
@pytest.mark.parametrize("options,size", [(TOY, 8), (CROPS, 40)])
def test_cuda_agrees_with_the_cpu(options, size):
    # In convolutions of ten bits a GPU is too far from the CPU.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        check_cuda(Bigan(**options), image_set(size=size))
