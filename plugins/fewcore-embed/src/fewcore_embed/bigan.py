"""BiGAN: a generator of pictures from codes and an encoder of pictures, trained against one discriminator of pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fewcore import Gather, ImageSet, Run, option
from fewcore_embed.adversarial import CollapseWatch, take_population_statistics, telling_loss
from fewcore_embed.bigan_networks import SIDE, SPREAD, BiganNetwork, Pair, build_pair, network_for
from fewcore_embed.generative import GenerativeEncoder
from fewcore_embed.image_kind import ImageKind
from fewcore_embed.layers import draw_equal_weights
from fewcore_embed.passes import Passes
from fewcore_embed.prepare import check_images
from fewcore_embed.sheets import COLUMNS, Sheet

METHOD = "bigan"
BETAS = (0.5, 0.999)
LAST_SHARE = 0.01
SAMPLES = 60


class BiganEncoder(GenerativeEncoder):
    """Embeds images with the encoder of a BiGAN; `network` maps images (n, c, h, w) to codes (n, dim) in (-1, 1)."""

    method = METHOD
    builds = BiganNetwork


def swapped_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Return 1/2 [BCE(real, 0) + BCE(fake, 1)] of logits (n,), which encoder and generator minimise."""
    return (F.softplus(real).mean() + F.softplus(-fake).mean()) / 2


class Losses(NamedTuple):
    """The losses of one step, the discriminator's and that of encoder and generator, and the pictures generated."""

    discriminator: torch.Tensor
    encoder: torch.Tensor
    made: torch.Tensor


def fill_gradients(network: BiganNetwork, pair: Pair, x: torch.Tensor, z: torch.Tensor) -> Losses:
    """Add each loss's gradient to the `grad` of its own parameters, each forward pass being made once.

    x is prepared images (n, c, h, w), z codes from the prior (n, dim). The pairs (x, E(x)) of the data and the generated
    pairs (G(z), z) go through the discriminator, and so through batch norm, one after the other.
    """
    made = pair.generator(z)
    real, fake = pair.discriminator(x, network.codes(x)), pair.discriminator(made, z)
    loss = swapped_loss(real, fake)
    torch.autograd.backward(loss, inputs=[*network.parameters(), *pair.generator.parameters()], retain_graph=True)
    telling = telling_loss(real, fake)
    torch.autograd.backward(telling, inputs=list(pair.discriminator.parameters()))
    return Losses(telling.detach(), loss.detach(), made.detach())


def learning_rate_share(epoch: int, epochs: int, decay_epochs: int) -> float:
    """Return the share of the learning rate in an epoch: 1 in the first `epochs`, then falling by equal factors to 1%."""
    return 1.0 if epoch < epochs else float(LAST_SHARE ** ((epoch - epochs + 1) / decay_epochs))


def _groups(modules: tuple[nn.Module, ...], decay: float) -> list[dict[str, Any]]:
    """Return the parameters for Adam; the gains of batch norm do not decay."""
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, _BatchNorm)]
    gains = [layer.weight for layer in layers if layer.affine]
    kept = {id(gain) for gain in gains}
    others = [p for module in modules for p in module.parameters() if id(p) not in kept]
    groups: list[dict[str, Any]] = [{"params": others, "weight_decay": decay}]
    return [*groups, {"params": gains, "weight_decay": 0.0}] if gains else groups


@dataclass(frozen=True)
class Bigan:
    """A generator G makes pictures from codes z of a uniform prior, an encoder E makes codes of pictures, and a
    discriminator tells pairs (x, E(x)) from pairs (G(z), z). Where it cannot, E inverts G. E's answer, in (-1, 1), is
    the embedding; it needs no whitening. No label is read and no pixel is compared.

    `permutation-invariant` sees the pixels, in [0, 1], through fully connected layers; `alexnet` sees random crops of
    64 x 64 of pictures whose shorter side is `short_side`, in [-1, 1], and the crop at the centre when it embeds. `auto`
    takes alexnet for pictures of at least 64 pixels a side. After the training, batch norm's statistics are taken anew over
    `statistics_batches`. The report shows pictures with their reconstructions G(E(x)), and samples.

    Source: J. Donahue, P. Kraehenbuehl, T. Darrell: Adversarial Feature Learning, ICLR 2017, arXiv:1605.09782. Prior and
    networks for Omniglot, miniImageNet and CelebA as in K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning,
    ICLR 2019, arXiv:1810.02334.

    Differs from the paper: images come in shuffled passes that follow each other without a gap; codes are uniform in
    [-1, 1], as in the authors' code, where the paper says [0, 1]. As in the code, encoder and generator minimise the loss
    with swapped labels, in the same step as the discriminator minimises its own.

    Raises:
        DataError: volumes; images outside the range of their spec, or with NaN.
        NumericalError: a loss is NaN or infinite; for `patience` steps the discriminator's loss is below 0.001, or the
            variance of generated pictures is below 0.001 of the data's.

    """

    network: Literal["auto", "permutation-invariant", "alexnet"] = option("auto", "layers, chosen by the images' size")
    dim: int = option(200, "length of an embedding", paper="50 on MNIST, else 200", low=1)
    epochs: int = option(200, "passes over the images at the full learning rate", paper="200; 50 on ImageNet", low=1)
    decay_epochs: int = option(
        200, "passes in which it then falls to 1%", paper="200; 50 on ImageNet", unit="passes", low=0
    )
    batch_size: int = option(128, "images of a step", unit="images", low=2)
    learning_rate: float = option(2e-4, "Adam's learning rate", low=0)
    weight_decay: float = option(2.5e-5, "times each weight is added to its gradient; gains are left out", low=0)
    short_side: int = option(
        72, "shorter side of pictures before alexnet's crops; 64: no more than they need", unit="pixels", low=SIDE
    )
    width: float = option(1.0, "share of the paper's units and filters", low=0.01, high=4)
    statistics_batches: int = option(1000, "batches from which batch norm's last statistics come", low=1)
    patience: int = option(1000, "steps of a collapse after which training stops", unit="steps", low=1)

    def fit(self, images: ImageSet, run: Run) -> BiganEncoder:
        """Train on the images and return the encoder; weights, codes and crops are drawn from `run.generator`, the order of
        the images from `run.rng`.
        """
        check_images(images, METHOD)
        kind = ImageKind.of(images, METHOD)
        chosen = network_for(images) if self.network == "auto" else self.network
        options = {"network": chosen, "dim": self.dim, "short_side": self.short_side, "width": self.width}
        network = BiganNetwork(kind, options)
        pair = build_pair(network)
        for part in (network, *pair):
            draw_equal_weights(part, SPREAD, run.generator)
            part.to(run.device).train()
        gather = Gather(images, run.device)
        passes = Passes(int(run.rng.integers(2**62)), len(images), self.batch_size)
        n_steps = math.ceil((self.epochs + self.decay_epochs) * len(images) / self.batch_size)
        self._train(network, pair, gather, passes, n_steps, run)
        counted = range(self.statistics_batches)
        steps = run.track(counted, name="encoder statistics")
        take_population_statistics(network, (passes.images(n_steps + batch, gather) for batch in steps))
        steps = run.track(counted, name="generator statistics")
        take_population_statistics(pair.generator, (self._prior(run) for _ in steps))
        return BiganEncoder(network, self._sheet(network, pair, gather(np.arange(COLUMNS) % len(images)), run))

    def _prior(self, run: Run, n: int = 0) -> torch.Tensor:
        """Return codes of the prior, U(-1, 1), (n, dim); n is by default that of a batch."""
        drawn = torch.rand(n or self.batch_size, self.dim, generator=run.generator)
        return (2 * drawn - 1).to(run.device)

    def _train(self, network: BiganNetwork, pair: Pair, gather: Gather, passes: Passes, n_steps: int, run: Run) -> None:
        def adam(*modules: nn.Module) -> torch.optim.Adam:
            return torch.optim.Adam(_groups(modules, self.weight_decay), self.learning_rate, BETAS, fused=True)

        ours, critics = adam(network, pair.generator), adam(pair.discriminator)
        watch = CollapseWatch(METHOD, self.patience, run.device)
        state = {"network": network, **pair._asdict(), "ours": ours, "critics": critics, "watch": watch}
        for step in run.loop(n_steps, name="train", **state):
            epoch = step * self.batch_size // passes.n
            for group in (*ours.param_groups, *critics.param_groups):
                group["lr"] = self.learning_rate * learning_rate_share(epoch, self.epochs, self.decay_epochs)
            x = network.prepared(passes.images(step, gather), run.generator)
            ours.zero_grad()
            critics.zero_grad()
            losses = fill_gradients(network, pair, x, self._prior(run))
            ours.step()
            critics.step()
            run.log(discriminator=losses.discriminator, encoder=losses.encoder)
            watch.observe(step, losses.discriminator, losses.made, x)

    @torch.no_grad()
    def _sheet(self, network: BiganNetwork, pair: Pair, x: torch.Tensor, run: Run) -> Sheet:
        """Return a row of images x, one of their reconstructions, and samples."""
        x = network.prepared(x)
        shown = torch.cat([x, pair.generator(network.codes(x)), pair.generator(self._prior(run, SAMPLES))])
        unit = shown if network.flat else (shown + 1) / 2
        return Sheet.of(unit, "training images; their reconstructions from the embedding; samples")
