"""The VAE against literal transcriptions of its loss and networks, and what fewcore asks of every embedder."""

from __future__ import annotations

import math

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
    two_sorts,
)

from fewcore import DataError, NumericalError, Run, torch_generator
from fewcore.testing import ToyBackbone
from fewcore_embed.image_kind import ImageKind
from fewcore_embed.vae import (
    Decoder,
    Vae,
    VaeEncoder,
    VaeNetwork,
    bernoulli_error,
    divergence,
    gaussian_error,
    losses_of,
    pyramid,
    shrunk,
)

TOY = {"dim": 3, "filters": 2, "steps": 5, "batch_size": 6}


def test_errors_are_those_of_the_equations():
    generator = torch_generator(0)
    x = torch.rand(3, 1, 2, 2, generator=generator, dtype=torch.float64)
    made = torch.randn(3, 1, 2, 2, generator=generator, dtype=torch.float64)
    bernoulli = gaussian = 0.0
    for pixel, value in zip(x.flatten().tolist(), made.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-value))
        bernoulli -= pixel * math.log(p) + (1 - pixel) * math.log(1 - p)
        gaussian += 0.5 * (pixel - value) ** 2
    assert bernoulli_error(x, made).item() == pytest.approx(bernoulli / 3, abs=1e-12)
    assert gaussian_error(x, made).item() == pytest.approx(gaussian / 3, abs=1e-12)


def test_divergence_is_the_integral_of_its_definition():
    """KL(q || p) = sum over dimensions of the integral of q log(q / p), on a fine grid."""
    mean = torch.tensor([[0.5, -1.0], [0.0, 2.0]], dtype=torch.float64)
    log_variance = torch.tensor([[0.3, -0.7], [0.0, 0.5]], dtype=torch.float64)
    z = np.linspace(-25, 25, 100_001)
    total = 0.0
    for m, v in zip(mean.flatten().tolist(), log_variance.exp().flatten().tolist(), strict=True):
        log_q = -0.5 * np.log(2 * np.pi * v) - (z - m) ** 2 / (2 * v)
        log_p = -0.5 * np.log(2 * np.pi) - z**2 / 2
        total += np.sum(np.exp(log_q) * (log_q - log_p)) * (z[1] - z[0])
    assert divergence(mean, log_variance).item() == pytest.approx(total / 2, abs=1e-8)
    assert divergence(torch.zeros(4, 3), torch.zeros(4, 3)).item() == 0


def test_sizes_are_halved_until_no_side_is_longer_than_four():
    assert pyramid((28, 28)) == [(28, 28), (14, 14), (7, 7), (4, 4)]
    assert pyramid((4, 3)) == [(4, 3)]
    assert pyramid((9, 5, 3)) == [(9, 5, 3), (5, 3, 3), (3, 3, 3)]
    assert len(pyramid((64, 64))) == 5


@pytest.mark.parametrize("size,wanted", [((6, 6), (3, 3)), ((7, 4), (4, 4)), ((5, 3, 8), (3, 3, 4))])
def test_maps_are_shrunk_to_the_means_of_what_is_there(size, wanted):
    x = torch.rand(2, 3, *size, generator=torch_generator(0))
    found = shrunk(x, wanted)
    assert tuple(found.shape[2:]) == wanted
    for place in np.ndindex(*wanted):
        block = [
            slice(2 * i, 2 * i + 2) if side > goal else slice(i, i + 1)
            for i, side, goal in zip(place, size, wanted, strict=True)
        ]
        torch.testing.assert_close(found[:, :, *place], x[:, :, *block].flatten(2).mean(2))


def slow_pair(h, p, name, conv):
    for place in (0, 2):
        h = F.leaky_relu(conv(h, p[f"{name}.{place}.weight"], p[f"{name}.{place}.bias"], padding=1), 0.2)
    return h


def test_losses_and_gradients_are_those_of_networks_written_out():
    """7 x 6 pixels: maps of 7 x 6 and 4 x 3. The decoder doubles nearest pixels and leaves out what is beyond the edge."""
    generator = torch_generator(1)
    network = double(VaeNetwork(ImageKind((2, 7, 6), (0.0, 1.0)), {"dim": 3, "filters": 2}), generator)
    decoder = double(Decoder(network), generator)
    x = torch.rand(4, 2, 7, 6, generator=generator, dtype=torch.float64)
    noise = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    losses = losses_of(network, decoder, x, noise, 0.3, bernoulli=True)
    losses.total.backward()

    e, d = ({n: p.detach().clone().requires_grad_() for n, p in part.named_parameters()} for part in (network, decoder))
    h = slow_pair(x, e, "blocks.0", F.conv2d)
    means = [[h[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3)) for j in range(3)] for i in range(4)]
    h = slow_pair(torch.stack([torch.stack(row, -1) for row in means], -2), e, "blocks.1", F.conv2d).flatten(1)
    mean = h @ e["mean.weight"].T + e["mean.bias"]
    log_variance = h @ e["log_variance.weight"].T + e["log_variance.bias"]
    z = mean + noise * torch.exp(log_variance) ** 0.5
    h = F.leaky_relu(z @ d["first.0.weight"].T + d["first.0.bias"], 0.2).reshape(4, 4, 4, 3)
    h = slow_pair(h, d, "blocks.0", F.conv2d)
    rows, columns = torch.arange(7) * 4 // 7, torch.arange(6) // 2
    h = slow_pair(h[:, :, rows][:, :, :, columns], d, "blocks.1", F.conv2d)
    p = torch.sigmoid(F.conv2d(h, d["last.weight"], d["last.bias"], padding=1))
    error = -(x * p.log() + (1 - x) * (1 - p).log()).sum() / 4
    apart = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / 4
    torch.testing.assert_close(losses.total, error + 0.3 * apart, rtol=1e-9, atol=1e-9)
    assert losses.reconstruction.item() == pytest.approx(error.item())
    assert losses.divergence.item() == pytest.approx(apart.item())
    (error + 0.3 * apart).backward()
    for part, slow in ((network, e), (decoder, d)):
        for name, value in part.named_parameters():
            torch.testing.assert_close(value.grad, slow[name].grad, rtol=1e-7, atol=1e-9, msg=name)


def test_networks_take_volumes_too():
    network = VaeNetwork(ImageKind((1, 9, 12, 10), (0.0, 1.0)), {"dim": 5, "filters": 2})
    decoder = Decoder(network)
    for part in (network, decoder):
        double(part, torch_generator(0)).float()
    x = torch.rand(2, 1, 9, 12, 10)
    assert network(x).shape == (2, 5)
    assert decoder(network(x)).shape == x.shape


def blobs(n=24):
    """Volumes of noise, every other with a bright block at its place."""
    pixels = np.random.default_rng(0).integers(0, 60, (n, 1, 6, 8, 10), dtype=np.uint8)
    pixels[::2, :, 1:4, 2:5, 2:5] += 180
    return of_pixels(pixels)


def test_volumes_are_reconstructed_from_their_embeddings():
    run, images = Run(0), blobs()
    encoder = Vae(dim=2, filters=2, steps=60, batch_size=12, learning_rate=1e-2).fit(images, run)
    vectors = encoder.embed(images, run)
    assert run.records[-1]["loss"] < 0.8 * run.records[0]["loss"]
    gap = np.abs(vectors[::2].mean(0) - vectors[1::2].mean(0)) / vectors.std(0)
    assert gap.max() > 1.5
    assert encoder.sheet.pictures.shape == (80, 1, 8, 10)
    check_saving(encoder, images)


def test_a_backbone_takes_the_place_of_the_convolutions_and_is_what_others_start_from():
    images, run = image_set(), Run(0)
    encoder = Vae(**TOY, likelihood="gaussian").fit(images, run, ToyBackbone())
    assert not len(encoder.codes.blocks)
    x = torch.from_numpy(images.images).float() / 255
    with torch.no_grad():
        prepared = (x - encoder.codes.centre) / encoder.codes.spread
        features = encoder.codes.trunk(prepared)
        torch.testing.assert_close(encoder.network(x), features)
        mean = features @ encoder.codes.mean.weight.T + encoder.codes.mean.bias
    np.testing.assert_allclose(encoder.embed(images, run), mean, rtol=1e-5, atol=1e-6)
    again = VaeEncoder.from_arrays(*encoder.to_arrays(), {"backbone": ToyBackbone()})
    np.testing.assert_array_equal(again.embed(images, run), encoder.embed(images, run))
    first = ToyBackbone().build(images.shape, 0, Run(0).generator)
    moved = [not torch.equal(a, b) for a, b in zip(first.parameters(), encoder.codes.trunk.parameters(), strict=True)]
    assert all(moved)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("images", [image_set(), image_set(size=9, channels=3, dtype=np.float32, value_range=(-2, 2))])
def test_embeddings_have_the_promised_shape_and_survive_saving(likelihood, images):
    encoder = Vae(**TOY, likelihood=likelihood).fit(images, Run(0))
    assert encoder.dim == 3
    assert encoder.sheet.pictures.shape == (80, *images.shape)
    check_saving(encoder, images)


def test_the_gaussian_likelihood_standardises_all_pixels_alike():
    images = image_set(n=300)
    network = Vae(**{**TOY, "steps": 1}, likelihood="gaussian").fit(images, Run(0)).network
    x = torch.from_numpy(images.images).float() / 255
    assert network.prepared(x).mean().item() == pytest.approx(0, abs=1e-5)
    assert network.prepared(x).std(correction=0).item() == pytest.approx(1, abs=1e-5)
    constant = of_pixels(np.full((4, 1, 8, 8), 51, np.uint8))
    network = Vae(**{**TOY, "steps": 1}, likelihood="gaussian").fit(constant, Run(0)).network
    assert (network.centre.item(), network.spread.item()) == (pytest.approx(0.2), 1)


def test_seed_decides_and_global_state_is_left_alone():
    check_seeds(Vae(**TOY), image_set())


def test_interrupted_training_ends_with_the_same_bits(tmp_path):
    check_resuming(Vae(**TOY), image_set(), tmp_path)


def test_training_learns_to_reconstruct_and_beta_holds_it_back():
    images = two_sorts()
    finals = {}
    for beta in (1.0, 1000.0):
        run = Run(0)
        Vae(dim=2, filters=2, steps=100, batch_size=16, learning_rate=1e-2, beta=beta).fit(images, run)
        finals[beta] = run.records[-1]
        assert set(run.records[0]) == {"loop", "step", "loss", "reconstruction", "divergence"}
    x = torch.from_numpy(images.images).float() / 255
    mean = x.mean(0).expand(len(x), -1, -1, -1)
    blind = bernoulli_error(x, torch.logit(mean)).item()  # what a decoder pays that knows the mean picture alone
    assert finals[1.0]["reconstruction"] < 0.8 * blind < 0.9 * blind < finals[1000.0]["reconstruction"]
    assert finals[1000.0]["divergence"] < 0.05 < finals[1.0]["divergence"]


def test_errors_say_what_to_do():
    check_bad_images(Vae(**TOY), "vae", volumes=True)
    with pytest.raises(DataError, match=r"^vae: found images \(1, 1, 8, 8\); expected at least 2 pixels a side"):
        Vae(**TOY).fit(of_pixels(np.zeros((3, 1, 1, 8, 8), np.uint8)), Run(0))
    with pytest.raises(NumericalError, match=r"is (nan|inf) at step \d+; .*lower the learning rate"):
        Vae(**{**TOY, "steps": 20, "learning_rate": 1e30}).fit(image_set(), Run(0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
def test_cuda_agrees_with_the_cpu():
    check_cuda(Vae(**TOY), image_set())
