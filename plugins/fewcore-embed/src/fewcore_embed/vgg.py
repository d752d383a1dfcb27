"""VGG features of pictures: the last layers of the networks of Chatfield, Simonyan and Zisserman."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from fewcore import Array, Arrays, ImageSet, Meta, Run, option, torch_generator
from fewcore_embed import weights as files
from fewcore_embed.batches import embedded
from fewcore_embed.layers import Conv2d, Dense, draw_weights, n_units
from fewcore_embed.prepare import check_channels, check_images, coloured, in_unit_range, resized

BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
BLOCK_FILTERS = (64, 128, 256, 512, 512)
UNITS, CLASSES = 4096, 1000
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FAST_MEAN = (123.68, 116.779, 103.939)
EMBED_BATCH = 16


def _deep_layers(blocks: tuple[int, ...], width: float) -> list[nn.Module]:
    """Return the convolutions of 3 x 3 of VGG-16 or VGG-19, each block halved by a pool."""
    layers: list[nn.Module] = []
    inputs = 3
    for count, filters in zip(blocks, BLOCK_FILTERS, strict=True):
        for _ in range(count):
            layers += [Conv2d(inputs, n_units(filters, width), 3, padding=1), nn.ReLU(inplace=True)]
            inputs = n_units(filters, width)
        layers.append(nn.MaxPool2d(2))
    return layers


def _fast_layers(width: float) -> list[nn.Module]:
    """Return the five convolutions of CNN-F."""
    first, other = n_units(64, width), n_units(256, width)

    def norm() -> nn.Module:
        return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    layers = [Conv2d(3, first, 11, stride=4), nn.ReLU(inplace=True), norm(), pool()]
    layers += [Conv2d(first, other, 5, padding=2), nn.ReLU(inplace=True), norm(), pool()]
    for _ in range(3):
        layers += [Conv2d(other, other, 3, padding=1), nn.ReLU(inplace=True)]
    return [*layers, pool()]


@dataclass(frozen=True)
class VggSettings:
    """What the features depend on beside the weights; see the options of `Vgg`."""

    model: str
    layer: str
    relu: bool
    width: float
    size: int

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return CLASSES if self.layer == "fc8" else n_units(UNITS, self.width)


class VggNetwork(nn.Module):
    """Pictures (n, 3, h, w) in [0, 1] to the layer fc7 or fc8, (n, e). Layers have torchvision's names."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, settings: VggSettings) -> None:
        super().__init__()
        fast = settings.model == "cnn-f"
        self.scale = 255.0 if fast else 1.0
        mean, deviation = (FAST_MEAN, (1.0, 1.0, 1.0)) if fast else (MEAN, DEVIATION)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None], persistent=False)
        layers = _fast_layers(settings.width) if fast else _deep_layers(BLOCKS[settings.model], settings.width)
        self.features = nn.Sequential(*layers)
        side = 6 if fast else 7
        self.pool = nn.AdaptiveAvgPool2d(side)
        filters = [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)][-1]
        units = n_units(UNITS, settings.width)
        classifier: list[nn.Module] = [
            Dense(filters * side**2, units),
            nn.ReLU(),
            nn.Identity(),
            Dense(units, units),
        ]
        if settings.layer == "fc8":
            # The places of the published networks' dropout are kept, so that the names are theirs.
            classifier += [nn.ReLU(), nn.Identity(), Dense(units, CLASSES)]
        if settings.relu:
            classifier.append(nn.ReLU())
        self.classifier = nn.Sequential(*classifier)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, e)."""
        x = (x * self.scale - self.mean) / self.deviation
        made: torch.Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return made


def under_torchvisions_names(tensors: Mapping[str, torch.Tensor], network: VggNetwork) -> dict[str, torch.Tensor]:
    """Return weights named as by torchvision, timm (`pre_logits.fc1`, `head.fc`) or Caffe (`conv1` ... `fc8`)."""
    places = [i for i, layer in enumerate(network.features) if isinstance(layer, nn.Conv2d)]
    names = {f"conv{number}": f"features.{place}" for number, place in enumerate(places, 1)}
    names |= {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}
    names |= {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
    renamed = {}
    for name, value in tensors.items():
        layer, _, kind = name.rpartition(".")
        layer = names.get(layer, layer)
        flat = re.fullmatch(r"classifier\.\d", layer) and value.ndim > 2
        renamed[f"{layer}.{kind}"] = value.flatten(1) if flat else value
    return renamed


class VggEncoder:
    """Embeds pictures with a VGG network: its weights, or the seed from which they are drawn."""

    def __init__(self, settings: VggSettings, seed: int, weights: Mapping[str, torch.Tensor] | None) -> None:
        self.settings, self.seed, self.from_file = settings, seed, weights is not None
        self.network = VggNetwork(settings).eval()
        if weights is None:
            draw_weights(self.network, torch_generator(seed))
        else:
            files.fill(self.network, weights, "the file", "vgg")

    @property
    def dim(self) -> int:
        """Length of a vector: 4096 times the width for fc7, 1000 for fc8."""
        return self.settings.dim

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return the features, (n, e) float32.

        Raises:
            DataError: the images are volumes, of other than 1 or 3 channels, or hold NaN.

        """
        check_images(images, "vgg")
        check_channels(images, "vgg")
        network = self.network.to(run.device)

        def features(x: torch.Tensor) -> torch.Tensor:
            x = resized(in_unit_range(x, images, "vgg"), (self.settings.size,) * 2)
            return cast("torch.Tensor", network(coloured(x)))

        return embedded(images, run, EMBED_BATCH, (self.dim,), features)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights where they were read from a file, and the settings."""
        own = self.network.state_dict() if self.from_file else {}
        arrays = {name: value.cpu().numpy().copy() for name, value in own.items()}
        return arrays, {"settings": asdict(self.settings), "seed": self.seed}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> VggEncoder:
        """Build the encoder from `to_arrays`' result."""
        weights = {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}
        return cls(VggSettings(**meta["settings"]), meta["seed"], weights or None)


@dataclass(frozen=True)
class Vgg:
    """A network trained to name what is on a photograph; its second fully connected layer (fc7) or its answers before
    the softmax (fc8) are the features. Rectified fc8 sets negative answers to zero. Without weights the features are
    those of a random network. No image is asked for, so that one encoder serves all folds.

    Pictures are resized to a square, bilinearly; grey ones have three equal channels. They are normalised as for the
    published weights: cnn-f sees 0 to 255 less the mean colour (red, green, blue), the others ImageNet's mean and deviation.

    Source: cnn-f, the "fast" network: K. Chatfield, K. Simonyan, A. Vedaldi, A. Zisserman: Return of the Devil in the
    Details, BMVC 2014, arXiv:1405.3531; vgg16 and vgg19: K. Simonyan, A. Zisserman: Very Deep Convolutional Networks for
    Large-Scale Image Recognition, ICLR 2015, arXiv:1409.1556. Layers and rectifier as in S. Hussein, P. Kandel, C. Bolan,
    M. Wallace, U. Bagci: Lung and Pancreatic Tumor Characterization in the Deep Learning Era, 2019, arXiv:1801.03230.

    Differs from the paper: cnn-f subtracts a mean colour, not a mean image; where `size` is not 224 the last map is
    averaged to the size that the first fully connected layer expects; random weights are drawn from N(0, 2 / fan_in).

    Raises:
        DataError: volumes; images of other than 1 or 3 channels, or with NaN; a weights file that is missing, cannot be
            read, has another checksum or is of another network.

    """

    model: Literal["cnn-f", "vgg16", "vgg19"] = option("cnn-f", "the network")
    layer: Literal["fc7", "fc8"] = option("fc7", "whose answers are the features")
    relu: bool = option(True, "rectify the answers")
    width: float = option(1.0, "share of the paper's filters and units", low=0.01, high=4)
    size: int = option(224, "side that pictures are resized to", unit="pixels", low=64, high=1024)
    weights: str = option("", "file of weights (.safetensors) under torchvision's, timm's or Caffe's names")
    sha256: str = option("", "checksum that the weights file must have")

    def __post_init__(self) -> None:
        files.check_options(self.weights, self.sha256)

    def sources(self) -> tuple[Path, ...]:
        """Return the weights file, where there is one."""
        return files.weight_files(self.weights)

    def fit(self, run: Run) -> VggEncoder:
        """Return the encoder: nothing is learnt."""
        settings = VggSettings(self.model, self.layer, self.relu, self.width, self.size)
        encoder = VggEncoder(settings, int(run.rng.integers(2**62)), None)
        if self.weights:
            tensors = under_torchvisions_names(files.read_weights(self.weights, self.sha256, "vgg"), encoder.network)
            files.fill(encoder.network, tensors, self.weights, "vgg")
            encoder.from_file = True
        return encoder
