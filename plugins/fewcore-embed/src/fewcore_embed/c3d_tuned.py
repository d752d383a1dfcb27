"""C3D tuned on the training images: a network for one target, or one for each rated attribute."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fewcore import (
    Array,
    Arrays,
    Gather,
    ImageSet,
    Meta,
    Run,
    child_seed,
    load_module,
    module_arrays,
    numpy_generator,
    option,
)
from fewcore_embed import weights as files
from fewcore_embed.binary_targets import PER_ATTRIBUTE, Question, questions
from fewcore_embed.c3d import EMBED_BATCH, C3dSettings, check_size, check_volumes, features_of, network_from_file
from fewcore_embed.c3d_network import DROPOUT, SIZE, C3dClassifier, C3dNetwork
from fewcore_embed.layers import draw_weights

METHOD = "c3d-tuned"


class TunedC3dEncoder:
    """Embeds volumes with the features of m tuned networks; `target_names` (m) says what each was tuned for.

    Vectors are (n, m, e), or (n, e) where it was tuned for a single target by name (`each` is false).
    """

    def __init__(
        self, settings: C3dSettings, names: tuple[str, ...], networks: list[C3dNetwork], *, each: bool
    ) -> None:
        self.settings, self.target_names, self.networks, self.each = settings, names, networks, each

    @property
    def dim(self) -> int:
        """Number of units of fc6: 4096 times the width."""
        return self.settings.dim

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return the features fc6, (n, m, e) or (n, e) float32.

        Raises:
            DataError: the images are no volumes, of other than 1 or 3 channels, or hold NaN.

        """
        check_volumes(images, METHOD)
        vectors = features_of(self.networks, images, self.settings, run, METHOD)
        return vectors if self.each else np.ascontiguousarray(vectors[:, 0])

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights up to fc6, and the settings; the layers above it only served the tuning."""
        arrays = {
            f"{i}.{name}": values
            for i, network in enumerate(self.networks)
            for name, values in module_arrays(network).items()
        }
        return arrays, {**asdict(self.settings), "target_names": list(self.target_names), "each": self.each}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> TunedC3dEncoder:
        """Build the encoder from `to_arrays`' result."""
        settings = C3dSettings.from_json(meta)
        assert settings.size is not None
        networks = []
        for i in range(len(meta["target_names"])):
            network = C3dNetwork(settings.size, settings.width, relu=settings.relu)
            prefix = f"{i}."
            own = {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
            load_module(network, own)
            networks.append(network)
        return cls(settings, tuple(meta["target_names"]), networks, each=meta["each"])


def rows_of_step(seed: int, n: int, batch_size: int, step: int) -> Array:
    """Return the images of a step, a pure function of seed and step: shuffled passes, the last batch of each smaller."""
    epoch, batch = divmod(step, math.ceil(n / batch_size))
    order = numpy_generator(child_seed(seed, epoch)).permutation(n)
    return order[batch * batch_size : (batch + 1) * batch_size]


def flipped(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return volumes (n, c, d, h, w), each turned over along h and along w with probability one half."""
    over = torch.rand(2, len(x), generator=generator).to(x.device) < 0.5
    for axis, chosen in zip((3, 4), over, strict=True):
        x = torch.where(chosen[:, None, None, None, None], x.flip(axis), x)
    return x


def _volumes(images: ImageSet, settings: C3dSettings, run: Run) -> torch.Tensor:
    """Return all volumes in the size and range of the network, (n, c, d, h, w) float32 on the device."""
    gather = Gather(images, run.device)
    starts = range(0, len(images), EMBED_BATCH)
    rows = [np.arange(start, min(start + EMBED_BATCH, len(images))) for start in starts]
    return torch.cat([settings.prepared(gather(part), images, METHOD) for part in rows])


@dataclass(frozen=True)
class C3dTuned:
    """C3D, tuned as a classifier on the training images: positive where the mean rating is above the middle of the
    attribute's scale, negative where it is below; ties and unrated images are left out. Then the answers of fc6 are
    the features.

    With `target: per-attribute` every rated attribute has a network of its own, and features are (n, m, e) with the
    encoder's `target_names`. A name tunes for that attribute or class target alone, '' for the pipeline's class target;
    features are then (n, e). Each network starts from the same weights and is trained by logistic loss and stochastic
    gradient descent with dropout of one half behind fc6 and fc7, on volumes that are flipped in the plane at random.

    Source: S. Hussein, P. Kandel, C. Bolan, M. Wallace, U. Bagci: Lung and Pancreatic Tumor Characterization in the
    Deep Learning Era, IEEE Transactions on Medical Imaging, 2019, arXiv:1801.03230; D. Tran, L. Bourdev, R. Fergus,
    L. Torresani, M. Paluri: Learning Spatiotemporal Features with 3D Convolutional Networks, ICCV 2015, arXiv:1412.0767.

    Differs from the paper: it tells neither learning rate, batches, epochs nor augmentation, and starts from weights
    trained on videos; the default rates suit random weights, a hundredth of them suits trained ones.

    Raises:
        DataError: images that are no volumes, of other than 1 or 3 channels, or hold NaN; a target that the images do
            not have, or with positive or negative images alone; ratings without a scale; a weights file that is missing,
            cannot be read, has another checksum or is of another network.
        NumericalError: the loss is no longer finite.

    """

    target: str = option(
        PER_ATTRIBUTE, "per-attribute, the name of an attribute or class target, or '' for the classes"
    )
    leave_out: tuple[str, ...] = option((), "rated attributes without a network")
    width: float = option(1.0, "share of the paper's filters and units; 0.125 suits a CPU", low=0.01, high=4)
    size: tuple[int, int, int] | None = option(
        None,
        "depth, height and width that volumes are resized to; null: their own, at most the paper's",
        paper="16, 112, 112",
    )
    relu: bool = option(True, "take fc6 after its rectifier")
    value_range: tuple[float, float] = option(
        (0.0, 1.0), "what the darkest and brightest voxel become", paper="0 to 255 less the mean video"
    )
    weights: str = option("", "file of weights to start from (.safetensors), named conv1.weight ... fc6.bias")
    sha256: str = option("", "checksum that the weights file must have")
    epochs: int = option(20, "passes over the training images", paper="not told", low=1)
    batch_size: int = option(16, "images a step", paper="not told", low=1)
    learning_rate: float = option(0.01, "of the layers up to fc6", paper="not told; 1e-4 from trained weights", low=0)
    head_learning_rate: float = option(
        0.01, "of the layers above fc6", paper="not told; 1e-3 from trained weights", low=0
    )
    momentum: float = option(0.9, "of the gradient", low=0, high=1)
    weight_decay: float = option(5e-4, "pull of all weights towards zero", low=0)
    flips: bool = option(True, "turn volumes over in the plane at random while tuning")

    def __post_init__(self) -> None:
        files.check_options(self.weights, self.sha256)
        check_size(self.size, self.value_range)
        if self.leave_out and self.target != PER_ATTRIBUTE:
            raise ValueError(f"leave_out: found with target '{self.target}'; expected it with target: {PER_ATTRIBUTE}")

    def sources(self) -> tuple[Path, ...]:
        """Return the weights file, where there is one."""
        return files.weight_files(self.weights)

    def fit(self, images: ImageSet, run: Run) -> TunedC3dEncoder:
        """Tune the networks on the images' targets and return the encoder."""
        check_volumes(images, METHOD)
        asked = questions(images, self.target, self.leave_out, METHOD)
        own = C3dSettings(self.width, self.size, self.value_range, self.relu)
        size = SIZE if self.weights and self.size is None else own.size_for(images)
        settings = C3dSettings(self.width, size, self.value_range, self.relu)
        start = self._start(settings, run)
        volumes = _volumes(images, settings, run)
        networks = []
        for i, question in enumerate(asked):
            network = self._classifier(settings)
            load_module(network, start)
            name = f"{i} {re.sub(r'[^A-Za-z0-9]+', ' ', question.name).strip()}".strip()
            self._tune(network.to(run.device), volumes, question, name, run)
            networks.append(network.features.cpu().eval())
        names = tuple(question.name for question in asked)
        return TunedC3dEncoder(settings, names, networks, each=self.target == PER_ATTRIBUTE)

    def _classifier(self, settings: C3dSettings) -> C3dClassifier:
        assert settings.size is not None
        return C3dClassifier(C3dNetwork(settings.size, settings.width, relu=settings.relu))

    def _start(self, settings: C3dSettings, run: Run) -> Arrays:
        """Return the weights from which every network starts."""
        network = self._classifier(settings)
        draw_weights(network, run.generator)
        if self.weights:
            tensors = files.read_weights(self.weights, self.sha256, METHOD)
            network.features.load_state_dict(network_from_file(settings, tensors, self.weights, METHOD).state_dict())
            if "fc7.weight" in tensors:
                above = {name.removeprefix("fc7."): v for name, v in tensors.items() if name.startswith("fc7.")}
                files.fill(network.fc7, above, f"{self.weights} (fc7)", METHOD)
        return module_arrays(network)

    def _tune(self, network: C3dClassifier, volumes: torch.Tensor, question: Question, name: str, run: Run) -> None:
        """Train one network to answer one question about volumes (n, c, d, h, w)."""
        known = np.flatnonzero(~np.isnan(question.answers))
        answers = torch.from_numpy(question.answers[known].astype(np.float32)).to(run.device)
        above = [*network.fc7.parameters(), *network.fc8.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": list(network.features.parameters())},
            {"params": above, "lr": self.head_learning_rate},
        ]
        optimiser = torch.optim.SGD(groups, self.learning_rate, self.momentum, weight_decay=self.weight_decay)
        seed = int(run.rng.integers(2**62))
        steps = self.epochs * math.ceil(len(known) / self.batch_size)
        network.train()
        for step in run.loop(steps, name=name, network=network, optimiser=optimiser):
            rows = rows_of_step(seed, len(known), self.batch_size, step)
            x = volumes[torch.from_numpy(known[rows]).to(run.device)]
            x = flipped(x, run.generator) if self.flips else x
            kept = torch.rand(2, len(rows), network.features.dim, generator=run.generator).to(run.device) >= DROPOUT
            logits = network(x, kept)
            wanted = answers[torch.from_numpy(rows).to(run.device)]
            loss = F.binary_cross_entropy_with_logits(logits, wanted)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            run.log(loss=loss, accuracy=((logits > 0) == (wanted > 0)).float().mean())
