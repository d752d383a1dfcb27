"""InfoGAN against literal transcriptions of its losses and networks, and what fewcore asks of every embedder."""

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
    slow_norm,
    two_sorts,
)

from fewcore import DataError, NumericalError, Run, torch_generator
from fewcore_embed.image_kind import ImageKind
from fewcore_embed.infogan import (
    Codes,
    Infogan,
    InfoganNetwork,
    _draw,
    build_generator,
    discriminator_step,
    generator_loss,
    generator_step,
    information,
    joined,
)

TOY = {"width": 0.02, "steps": 4, "batch_size": 8, "statistics_batches": 3}
EPS = 1e-5


def codes_of(n=6, k=4, s=2, seed=0):
    generator = torch_generator(seed)
    noise, style = torch.rand(n, 3, generator=generator), torch.rand(n, s, generator=generator)
    sort = torch.randint(k, (n,), generator=generator)
    return Codes(2 * noise.double() - 1, sort, 2 * style.double() - 1)


def slow_information(answers, codes, k):
    """H(c) less the cross-entropy, with every density written out: uniform among sorts, normal of spread 1 for styles."""

    def log_normal(value, mean):
        return -0.5 * math.log(2 * math.pi) - 0.5 * (value - mean) ** 2

    total = 0.0
    for answer, sort, style in zip(answers.tolist(), codes.sort.tolist(), codes.style.tolist(), strict=True):
        odds = [math.exp(v) for v in answer[:k]]
        total += -math.log(1 / k) + math.log(odds[sort] / sum(odds))
        for value, mean in zip(style, answer[k:], strict=True):
            total += -log_normal(value, 0.0) + log_normal(value, mean)
    return total / len(answers)


@pytest.mark.parametrize("styles", [0, 1, 2])
def test_information_is_that_of_the_equations(styles):
    codes = codes_of(s=styles)
    answers = torch.randn(6, 4 + styles, generator=torch_generator(3), dtype=torch.float64)
    assert information(answers, codes, 4).item() == pytest.approx(slow_information(answers, codes, 4), abs=1e-12)


def test_information_has_its_limits():
    codes = codes_of()
    known = torch.cat([200.0 * F.one_hot(codes.sort, 4), codes.style], 1)
    assert information(known, codes, 4).item() == pytest.approx(
        math.log(4) + 0.5 * codes.style.square().sum(1).mean().item()
    )
    assert information(torch.zeros(6, 6, dtype=torch.float64), codes, 4).item() == pytest.approx(0, abs=1e-12)


def test_generator_loss_and_inputs_are_those_of_the_equations():
    logits = torch.randn(7, generator=torch_generator(1), dtype=torch.float64)
    slow = -sum(math.log(1 / (1 + math.exp(-v))) for v in logits.tolist()) / 7
    assert generator_loss(logits).item() == pytest.approx(slow, abs=1e-12)
    codes = Codes(torch.tensor([[0.5]]), torch.tensor([2]), torch.tensor([[-0.25]]))
    assert joined(codes, 4).tolist() == [[0.5, 0, 0, 1, 0, -0.25]]


def slow_conv(x, kernel, bias):
    return F.conv2d(F.pad(x, (1, 1, 1, 1)), kernel, bias)[:, :, ::2, ::2]


def slow_judged(p, x):
    h = F.leaky_relu(slow_conv(x, p["trunk.0.weight"], p["trunk.0.bias"]), 0.01)
    h = slow_conv(h, p["trunk.2.weight"], p["trunk.2.bias"])
    h = F.leaky_relu(slow_norm(h, EPS, p["trunk.3.weight"], p["trunk.3.bias"]), 0.01).flatten(1)
    h = h @ p["trunk.6.weight"].T + p["trunk.6.bias"]
    h = F.leaky_relu(slow_norm(h, EPS, p["trunk.7.weight"], p["trunk.7.bias"]), 0.01)
    tell = (h @ p["tell.weight"].T + p["tell.bias"])[:, 0]
    h = slow_norm(h @ p["read.0.weight"].T + p["read.0.bias"], EPS, p["read.1.weight"], p["read.1.bias"])
    return tell, F.leaky_relu(h, 0.01) @ p["read.3.weight"].T + p["read.3.bias"]


def slow_generated(p, inputs, grid):
    def deconv(y, kernel, bias):
        spread = y.new_zeros(len(y), y.shape[1], 2 * y.shape[2], 2 * y.shape[3])
        spread[:, :, ::2, ::2] = y
        turned = kernel.flip(2, 3).transpose(0, 1)
        return F.conv2d(F.pad(spread, (2, 1, 2, 1)), turned, bias)

    h = slow_norm(inputs @ p["0.weight"].T + p["0.bias"], EPS, p["1.weight"], p["1.bias"]).clamp(min=0)
    h = slow_norm(h @ p["3.weight"].T + p["3.bias"], EPS, p["4.weight"], p["4.bias"]).clamp(min=0).reshape(-1, *grid)
    h = slow_norm(deconv(h, p["7.weight"], p["7.bias"]), EPS, p["8.weight"], p["8.bias"]).clamp(min=0)
    return 1 / (1 + torch.exp(-deconv(h, p["10.weight"], p["10.bias"])))


def toy_networks(seed=2):
    options = {"n_categories": 4, "n_continuous": 2, "categorical": "logits", "width": 0.05}
    generator = torch_generator(seed)
    network = double(InfoganNetwork(ImageKind((1, 8, 12), (0.0, 1.0)), options), generator)
    maker = double(build_generator((1, 8, 12), 3 + 4 + 2, 0.05), generator)
    return network, maker, torch.rand(6, 1, 8, 12, generator=generator, dtype=torch.float64)


def test_the_discriminators_gradients_are_those_of_its_loss_with_networks_written_out():
    network, maker, x = toy_networks()
    codes = codes_of()
    made = maker(joined(codes, 4))
    p = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
    g = {name: value.detach() for name, value in maker.named_parameters()}
    slow_made = slow_generated(g, joined(codes, 4), (6, 2, 3))
    torch.testing.assert_close(made.detach(), slow_made, rtol=1e-9, atol=1e-9)
    telling, known = discriminator_step(network, x, made, codes, 0.7)
    (real, _), (fake, answers) = slow_judged(p, x), slow_judged(p, slow_made)
    adversarial = -(torch.sigmoid(real).log() + (1 - torch.sigmoid(fake)).log()).mean()
    mutual = information(answers, codes, 4)
    assert telling.item() == pytest.approx(adversarial.item() / 2, abs=1e-10)
    assert known.item() == pytest.approx(mutual.item(), abs=1e-10)
    slow = torch.autograd.grad(adversarial - 0.7 * mutual, list(p.values()))
    for (name, value), exact in zip(network.named_parameters(), slow, strict=True):
        torch.testing.assert_close(value.grad, exact, rtol=1e-7, atol=1e-9, msg=name)
    assert all(value.grad is None for value in maker.parameters())


def test_the_generators_gradients_are_those_of_its_loss_and_its_own_alone():
    network, maker, _ = toy_networks()
    codes = codes_of()
    g = {name: value.detach().clone().requires_grad_() for name, value in maker.named_parameters()}
    loss = generator_step(network, maker, maker(joined(codes, 4)), codes, 0.7)
    p = {name: value.detach() for name, value in network.named_parameters()}
    fake, answers = slow_judged(p, slow_generated(g, joined(codes, 4), (6, 2, 3)))
    adversarial = -torch.sigmoid(fake).log().mean()
    assert loss.item() == pytest.approx(adversarial.item(), abs=1e-10)
    slow = torch.autograd.grad(adversarial - 0.7 * information(answers, codes, 4), list(g.values()))
    for (name, value), exact in zip(maker.named_parameters(), slow, strict=True):
        torch.testing.assert_close(value.grad, exact, rtol=1e-7, atol=1e-9, msg=name)
    assert all(value.grad is None for value in network.parameters())


def test_networks_have_the_sizes_of_the_paper():
    """MNIST: 74 inputs; the authors' two outputs for the styles' spread, which they ignore, are not there."""

    def count(module):
        return sum(p.numel() for p in module.parameters())

    options = {"n_categories": 10, "n_continuous": 2, "categorical": "logits", "width": 1.0}
    network = InfoganNetwork(ImageKind((1, 28, 28), (0.0, 1.0)), options)
    flat = 128 * 7 * 7
    trunk = 16 * 64 + 64 + 16 * 64 * 128 + 3 * 128 + flat * 1024 + 3 * 1024
    assert count(network.trunk) == trunk
    assert count(network.tell) == 1025
    assert count(network.read) == 1024 * 128 + 3 * 128 + 128 * 12 + 12
    maker = 74 * 1024 + 3 * 1024 + 1024 * flat + 3 * flat + 16 * 128 * 64 + 3 * 64 + 16 * 64 + 1
    assert count(build_generator((1, 28, 28), 74, 1.0)) == maker


def test_initial_weights_and_gains_have_the_spread_of_the_paper():
    network = build_generator((1, 28, 28), 74, 1.0)
    _draw(network, torch_generator(0))
    assert network[3].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert network[4].weight.mean().item() == pytest.approx(1, abs=0.01)
    assert network[4].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert network[3].bias.abs().max().item() == 0


@pytest.mark.parametrize(
    "images",
    [image_set(), image_set(size=12, channels=3, dtype=np.float32, value_range=(0, 2))],
)
def test_embeddings_have_the_promised_shape_and_survive_saving(images):
    encoder = Infogan(**TOY).fit(images, Run(0))
    assert encoder.dim == 12
    assert encoder.sheet.pictures.shape[:2] == (100, images.shape[0])
    check_saving(encoder, images)


def test_clusters_are_the_likeliest_sorts_and_softmax_keeps_them():
    images = image_set()
    logits, shares = (Infogan(**TOY, categorical=kind).fit(images, Run(0)) for kind in ("logits", "softmax"))
    vectors, other = logits.embed(images, Run(0)), shares.embed(images, Run(0))
    np.testing.assert_allclose(other[:, :10].sum(1), 1, rtol=1e-5)
    odds = np.exp(vectors[:, :10])
    np.testing.assert_allclose(other[:, :10], odds / odds.sum(1, keepdims=True), rtol=1e-4)
    np.testing.assert_array_equal(other[:, 10:], vectors[:, 10:])
    wanted = [max(range(10), key=lambda k, row=row: row[k]) for row in vectors.tolist()]
    np.testing.assert_array_equal(logits.assign(vectors), wanted)
    np.testing.assert_array_equal(shares.assign(other), wanted)
    vectors[:, 10:] = 99
    np.testing.assert_array_equal(logits.assign(vectors), wanted)
    few = Infogan(**TOY, n_categories=3, n_continuous=0).fit(images, Run(0))
    assert few.dim == 3
    assert few.sheet.pictures.shape[0] == 30


def test_a_sheets_rows_differ_by_the_sort_alone():
    """With weight on noise and styles gone, the pictures of a row are equal."""
    component = Infogan(**TOY, n_noise=5)
    maker = build_generator((1, 8, 8), 5 + 10 + 2, 0.02)
    _draw(maker, torch_generator(0))
    with torch.no_grad():
        maker[0].weight[:, :5] = 0
        maker[0].weight[:, 15:] = 0
        maker[0].weight *= 100
    pictures = component._sheet(maker.eval(), Run(0)).pictures.reshape(10, 10, -1).astype(int)
    assert (pictures == pictures[:, :1]).all()
    assert len(np.unique(pictures[:, 0], axis=0)) > 1


def test_seed_decides_and_global_state_is_left_alone():
    check_seeds(Infogan(**TOY), image_set())


def test_interrupted_training_ends_with_the_same_bits(tmp_path):
    check_resuming(Infogan(**TOY), image_set(), tmp_path)


def test_training_finds_the_two_sorts():
    images = two_sorts()
    run = Run(0)
    options = {"n_categories": 2, "n_continuous": 0, "n_noise": 4, "width": 0.1, "statistics_batches": 5}
    rates = {"learning_rate": 1e-3, "generator_learning_rate": 3e-3}
    # 100 steps are enough with some versions of torch and not with others.
    encoder = Infogan(**options, **rates, steps=200, batch_size=32).fit(images, run)
    found = encoder.assign(encoder.embed(images, run))
    agreement = np.mean(found == np.arange(64) % 2)
    assert max(agreement, 1 - agreement) > 0.9
    assert set(run.records[0]) == {"loop", "step", "discriminator", "generator", "information"}
    assert max(r["information"] for r in run.records) > 0.5 * math.log(2)


def test_a_discriminator_that_has_won_stops_the_training():
    """Against a generator that never learns it wins soon."""
    rates = {"learning_rate": 5e-2, "generator_learning_rate": 0.0, "information_weight": 0.0}
    component = Infogan(width=0.2, steps=300, batch_size=8, patience=5, **rates)
    images = of_pixels(np.random.default_rng(0).integers(0, 2, (8, 1, 8, 8)).astype(np.uint8) * 255)
    message = r"^infogan: at step \d+ the discriminator's loss has been below 0\.001 for \d+ steps: .*raise patience\)$"
    with pytest.raises(NumericalError, match=message):
        component.fit(images, Run(0))


def test_errors_say_what_to_do():
    check_bad_images(Infogan(**TOY), "infogan")
    message = r"^infogan: found images \(1, 10, 10\); expected sides that are multiples of 4 \(set the data set's image size\)$"
    with pytest.raises(DataError, match=message):
        Infogan(**TOY).fit(image_set(size=10), Run(0))
    with pytest.raises(NumericalError, match=r"is (nan|inf) at step \d+; .*lower the learning"):
        Infogan(**{**TOY, "steps": 20, "learning_rate": 1e30}).fit(image_set(), Run(0))


def test_options_have_the_paper_defaults():
    paper = Infogan()
    assert (paper.n_categories, paper.n_continuous, paper.n_noise, paper.information_weight) == (10, 2, 62, 1)
    assert (paper.steps, paper.batch_size, paper.learning_rate, paper.generator_learning_rate) == (
        5000,
        128,
        2e-4,
        1e-3,
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; found none")
def test_cuda_agrees_with_the_cpu():
    check_cuda(Infogan(**TOY), image_set())
