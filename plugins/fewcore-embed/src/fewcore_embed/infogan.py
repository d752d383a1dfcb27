"""InfoGAN: a generator whose codes for sort and style can be read off its pictures, by a network that embeds images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fewcore import Array, DataError, Gather, ImageSet, Meta, Run, option
from fewcore_embed.adversarial import CollapseWatch, take_population_statistics, telling_loss
from fewcore_embed.generative import CodeNetwork, GenerativeEncoder
from fewcore_embed.image_kind import ImageKind
from fewcore_embed.layers import Conv2d, Deconv2d, Dense, draw_equal_weights, n_units
from fewcore_embed.passes import Passes
from fewcore_embed.prepare import check_images
from fewcore_embed.sheets import COLUMNS, Sheet

METHOD = "infogan"
BETAS = (0.5, 0.999)
SPREAD = 0.02
SLOPE = 0.01
FILTERS = (64, 128)
UNITS, HEAD_UNITS = 1024, 128
SHRINKS = 4
"""Two layers of stride 2."""


class Codes(NamedTuple):
    """What a picture is made from: `noise` (n, m), `sort` (n,) integers, `style` (n, s) in [-1, 1]."""

    noise: torch.Tensor
    sort: torch.Tensor
    style: torch.Tensor


def joined(codes: Codes, n_categories: int) -> torch.Tensor:
    """Return the generator's input (n, m + k + s): noise, the sort among k as zeros and a one, and style."""
    one_hot = F.one_hot(codes.sort, n_categories).to(codes.noise.dtype)
    return torch.cat([codes.noise, one_hot, codes.style], 1)


def information(answers: torch.Tensor, codes: Codes, n_categories: int) -> torch.Tensor:
    """Return the lower bound of the information that pictures hold of their codes: H(c) less the cross-entropy, in nats.

    `answers` (n, k + s) are logits of the sorts, then means of the styles, whose spread is 1. The prior of a style, too,
    counts as normal of spread 1, as in the authors' code: only a constant depends on it.
    """
    logits, means = answers[:, :n_categories], answers[:, n_categories:]
    of_sort = math.log(n_categories) - F.cross_entropy(logits, codes.sort)
    of_style = 0.5 * (codes.style.square() - (codes.style - means).square()).sum(1).mean()
    return of_sort + of_style


def generator_loss(fake: torch.Tensor) -> torch.Tensor:
    """Return -mean log D of logits (n,) of generated pictures."""
    return F.softplus(-fake).mean()


def _norm(layer: type[_BatchNorm], units: int) -> list[nn.Module]:
    return [layer(units), nn.LeakyReLU(SLOPE, inplace=True)]


class InfoganNetwork(CodeNetwork):
    """Images as `Gather` gives them, (n, c, h, w), to what is read off them: logits of the sorts, or their probabilities,
    and means of the styles, (n, k + s). The trunk is shared with the discriminator, `tell`.
    """

    def __init__(self, kind: ImageKind, options: Meta) -> None:
        super().__init__(kind, options)
        channels, height, width = kind.shape
        first, second = (n_units(f, options["width"]) for f in FILTERS)
        units, head = (n_units(u, options["width"]) for u in (UNITS, HEAD_UNITS))
        self.n_categories, self.softmax = options["n_categories"], options["categorical"] == "softmax"
        self.dim = self.n_categories + options["n_continuous"]
        flat = second * (height // SHRINKS) * (width // SHRINKS)
        self.trunk = nn.Sequential(
            Conv2d(channels, first, 4, 2, padding=1),
            nn.LeakyReLU(SLOPE, inplace=True),
            Conv2d(first, second, 4, 2, padding=1),
            *_norm(nn.BatchNorm2d, second),
            nn.Flatten(),
            Dense(flat, units),
            *_norm(nn.BatchNorm1d, units),
        )
        self.tell = Dense(units, 1)
        self.read = nn.Sequential(Dense(units, head), *_norm(nn.BatchNorm1d, head), Dense(head, self.dim))

    def judged(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (n,) of being from the data and what is read off, (n, k + s), of pictures in [0, 1]."""
        h = self.trunk(x)
        return self.tell(h)[:, 0], self.read(h)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, k + s)."""
        read: torch.Tensor = self.read(self.trunk(self.kind.in_unit_range(x)))
        if self.softmax:
            sorts, styles = read[:, : self.n_categories], read[:, self.n_categories :]
            read = torch.cat([sorts.softmax(1), styles], 1)
        return read


def build_generator(shape: tuple[int, ...], n_inputs: int, width: float) -> nn.Module:
    """Return the generator of pictures (n, c, h, w) in (0, 1) from inputs (n, n_inputs)."""
    channels, height, breadth = shape
    last, first = (n_units(f, width) for f in FILTERS)
    units, grid = n_units(UNITS, width), (first, height // SHRINKS, breadth // SHRINKS)
    return nn.Sequential(
        Dense(n_inputs, units),
        nn.BatchNorm1d(units),
        nn.ReLU(inplace=True),
        Dense(units, math.prod(grid)),
        nn.BatchNorm1d(math.prod(grid)),
        nn.ReLU(inplace=True),
        nn.Unflatten(1, grid),
        Deconv2d(first, last, 4, 2, padding=1),
        nn.BatchNorm2d(last),
        nn.ReLU(inplace=True),
        Deconv2d(last, channels, 4, 2, padding=1),
        nn.Sigmoid(),
    )


def _draw(network: nn.Module, generator: torch.Generator) -> None:
    """Draw kernels from N(0, 0.02^2) and batch norm's gains from N(1, 0.02^2)."""
    draw_equal_weights(network, SPREAD, generator)
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            nn.init.normal_(layer.weight, 1.0, SPREAD, generator=generator)


class InfoganEncoder(GenerativeEncoder):
    """Embeds images with what an InfoGAN reads off them, (n, k + s): k logits of the sorts, s means of the styles."""

    method = METHOD
    builds = InfoganNetwork
    network: InfoganNetwork

    def assign(self, vectors: Array) -> Array:
        """Return the likeliest sort of each vector (n, k + s), (n,) integers from 0 to k - 1."""
        return np.asarray(vectors[:, : self.codes.n_categories].argmax(1))


def discriminator_step(
    network: InfoganNetwork, x: torch.Tensor, made: torch.Tensor, codes: Codes, weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the gradient of the discriminator's loss less the weighted information; return `telling_loss` and information.

    x and the generated pictures `made` (n, c, h, w) lie in [0, 1] and go through batch norm one after the other. The
    loss -mean [log D(x) + log(1 - D(made))] is twice `telling_loss`.
    """
    real, _ = network.judged(x)
    fake, answers = network.judged(made.detach())
    telling, known = telling_loss(real, fake), information(answers, codes, network.n_categories)
    torch.autograd.backward(2 * telling - weight * known)
    return telling.detach(), known.detach()


def generator_step(
    network: InfoganNetwork, generator: nn.Module, made: torch.Tensor, codes: Codes, weight: float
) -> torch.Tensor:
    """Add the gradient of the generator's loss less the weighted information to the generator's parameters alone; return
    the loss without the information.
    """
    fake, answers = network.judged(made)
    loss = generator_loss(fake)
    total = loss - weight * information(answers, codes, network.n_categories)
    torch.autograd.backward(total, inputs=list(generator.parameters()))
    return loss.detach()


@dataclass(frozen=True)
class Infogan:
    """A generator makes pictures from noise, a sort among `n_categories` and `n_continuous` styles in [-1, 1], so that a
    discriminator takes them for data and a network beside it can read sort and styles off them. What that network reads
    off an image is its embedding: a value for each sort, then the mean of each style. The likeliest sort is a cluster of
    the encoder's own (`own`). No label is read.

    The report shows generated pictures, a row for each sort.

    Source: X. Chen, Y. Duan, R. Houthooft, J. Schulman, I. Sutskever, P. Abbeel: InfoGAN: Interpretable Representation
    Learning by Information Maximizing Generative Adversarial Nets, NIPS 2016, arXiv:1606.03657. As an embedding of MNIST in
    K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334.

    Differs from the paper: images come in shuffled passes; kernels of convolutions are drawn without cutting the tails
    off; batch norm's statistics for embedding are taken after training over `statistics_batches` of images, where
    the authors' code keeps running means of images and generated pictures. Where paper and code differ (slope 0.01 of the leaky
    rectifier, weight 1 of the styles' information, steps of discriminator and generator in turn with codes drawn anew) the
    code is followed.

    Raises:
        DataError: volumes; sides that are no multiples of 4; images outside the range of their spec, or with NaN.
        NumericalError: a loss is NaN or infinite; for `patience` steps the discriminator's loss is below 0.001, or the
            variance of generated pictures is below 0.001 of the data's.

    """

    n_categories: int = option(10, "sorts of pictures", paper="10", low=2)
    n_continuous: int = option(2, "styles", paper="2", low=0)
    n_noise: int = option(62, "numbers of noise, which are not read off", paper="62", low=0)
    categorical: Literal["logits", "softmax"] = option("logits", "what the embedding holds for the sorts")
    information_weight: float = option(1.0, "weight of the information in both losses", paper="1", low=0)
    steps: int = option(5000, "training steps of discriminator and generator", paper="5000", unit="batches", low=1)
    batch_size: int = option(128, "images of a step", unit="images", low=2)
    learning_rate: float = option(2e-4, "Adam's learning rate, of discriminator and reader", low=0)
    generator_learning_rate: float = option(1e-3, "Adam's learning rate, of the generator", low=0)
    width: float = option(1.0, "share of the paper's filters and units", low=0.01, high=4)
    statistics_batches: int = option(1000, "batches from which batch norm's last statistics come", low=1)
    patience: int = option(1000, "steps of a collapse after which training stops", unit="steps", low=1)

    def fit(self, images: ImageSet, run: Run) -> InfoganEncoder:
        """Train on the images and return the encoder; weights and codes are drawn from `run.generator`, the order of the
        images from `run.rng`.
        """
        check_images(images, METHOD)
        if images.shape[1] % SHRINKS or images.shape[2] % SHRINKS:
            raise DataError(
                f"infogan: found images {images.shape}; expected sides that are multiples of {SHRINKS} (set the data set's "
                "image size)"
            )
        names = ("n_categories", "n_continuous", "categorical", "width")
        network = InfoganNetwork(ImageKind.of(images, METHOD), {name: getattr(self, name) for name in names})
        inputs = self.n_noise + self.n_categories + self.n_continuous
        generator = build_generator(images.shape, inputs, self.width)
        for part in (network, generator):
            _draw(part, run.generator)
            part.to(run.device).train()
        gather = Gather(images, run.device)
        passes = Passes(int(run.rng.integers(2**62)), len(images), self.batch_size)
        self._train(network, generator, gather, passes, run)
        counted = range(self.statistics_batches)
        steps = run.track(counted, name="encoder statistics")
        take_population_statistics(network, (passes.images(self.steps + batch, gather) for batch in steps))
        steps = run.track(counted, name="generator statistics")
        take_population_statistics(generator, (self._inputs(self._codes(run)) for _ in steps))
        return InfoganEncoder(network, self._sheet(generator, run))

    def _codes(self, run: Run) -> Codes:
        """Draw the codes of a batch."""
        n, rand = self.batch_size, run.generator
        noise = 2 * torch.rand(n, self.n_noise, generator=rand) - 1
        sort = torch.randint(self.n_categories, (n,), generator=rand)
        style = 2 * torch.rand(n, self.n_continuous, generator=rand) - 1
        return Codes(noise.to(run.device), sort.to(run.device), style.to(run.device))

    def _inputs(self, codes: Codes) -> torch.Tensor:
        return joined(codes, self.n_categories)

    def _train(self, network: InfoganNetwork, generator: nn.Module, gather: Gather, passes: Passes, run: Run) -> None:
        critics = torch.optim.Adam(network.parameters(), self.learning_rate, BETAS, fused=True)
        ours = torch.optim.Adam(generator.parameters(), self.generator_learning_rate, BETAS, fused=True)
        watch = CollapseWatch(METHOD, self.patience, run.device)
        state: dict[str, Any] = {"network": network, "generator": generator, "ours": ours, "critics": critics}
        for step in run.loop(self.steps, name="train", watch=watch, **state):
            x = network.kind.in_unit_range(passes.images(step, gather))
            codes = self._codes(run)
            with torch.no_grad():
                made = generator(self._inputs(codes))
            critics.zero_grad()
            telling, known = discriminator_step(network, x, made, codes, self.information_weight)
            critics.step()
            codes = self._codes(run)
            ours.zero_grad()
            made = generator(self._inputs(codes))
            loss = generator_step(network, generator, made, codes, self.information_weight)
            ours.step()
            run.log(discriminator=telling, generator=loss, information=known)
            watch.observe(step, telling, made, x)

    @torch.no_grad()
    def _sheet(self, generator: nn.Module, run: Run) -> Sheet:
        """Return a row of pictures for each of the first ten sorts, each column of the same noise and styles."""
        rows = min(self.n_categories, COLUMNS)
        noise = 2 * torch.rand(COLUMNS, self.n_noise, generator=run.generator) - 1
        style = 2 * torch.rand(COLUMNS, self.n_continuous, generator=run.generator) - 1
        sort = torch.arange(rows).repeat_interleave(COLUMNS)
        codes = Codes(*(part.to(run.device) for part in (noise.repeat(rows, 1), sort, style.repeat(rows, 1))))
        return Sheet.of(generator(self._inputs(codes)), "generated pictures, each row of one sort")
