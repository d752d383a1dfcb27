"""C3D features of volumes, from trained weights or random ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewcore import Array, Arrays, ImageSet, Meta, Run, option, torch_generator
from fewcore_embed import weights as files
from fewcore_embed.batches import embedded
from fewcore_embed.c3d_network import FEATURES, LEAST_SIZE, SIZE, C3dNetwork
from fewcore_embed.layers import draw_weights, n_units
from fewcore_embed.prepare import check_channels, check_images, in_unit_range, resized_volume

EMBED_BATCH = 32


@dataclass(frozen=True)
class C3dSettings:
    """What the features of a C3D depend on beside its weights; see the options of `C3d`.

    A `size` of None stands for the images' own, along each axis at most the paper's.
    """

    width: float
    size: tuple[int, int, int] | None
    value_range: tuple[float, float]
    relu: bool

    @property
    def dim(self) -> int:
        """Number of units of fc6."""
        return n_units(FEATURES, self.width)

    def size_for(self, images: ImageSet) -> tuple[int, int, int]:
        """Return the size (d, h, w) in which the network sees images."""
        if self.size is not None:
            return self.size
        depth, height, width = (
            max(min(own, most), least) for own, most, least in zip(images.shape[1:], SIZE, LEAST_SIZE, strict=True)
        )
        return depth, height, width

    def prepared(self, x: torch.Tensor, images: ImageSet, method: str) -> torch.Tensor:
        """Return volumes as `Gather` gives them, in the size and range of the network."""
        low, high = self.value_range
        unit = resized_volume(in_unit_range(x, images, method), self.size_for(images))
        return low + (high - low) * unit

    @classmethod
    def from_json(cls, meta: Meta) -> C3dSettings:
        """Build the settings from `asdict`'s result as JSON gives it back."""
        low, high = meta["value_range"]
        return cls(meta["width"], tuple(meta["size"]) if meta["size"] else None, (low, high), meta["relu"])


def check_volumes(images: ImageSet, method: str) -> None:
    """Refuse what is no volume in grey or colour.

    Raises:
        DataError: the images are 2-D, a pixel thick, or of other than 1 or 3 channels.

    """
    check_images(images, method, 3)
    check_channels(images, method)


def check_size(size: tuple[int, int, int] | None, value_range: tuple[float, float]) -> None:
    """Refuse a size of which the pools leave nothing, and an empty range.

    Raises:
        ValueError: saying which.

    """
    if size is not None and any(found < least for found, least in zip(size, LEAST_SIZE, strict=True)):
        raise ValueError(f"size: found {list(size)}; expected at least {list(LEAST_SIZE)} (five pools halve it)")
    if not value_range[0] < value_range[1]:
        raise ValueError(f"value_range: found {list(value_range)}; expected [low, high] with low < high")


def features_of(networks: list[C3dNetwork], images: ImageSet, settings: C3dSettings, run: Run, method: str) -> Array:
    """Return the features (n, m, e) float32 that m networks see in images."""
    networks = [network.to(run.device).eval() for network in networks]

    def features(x: torch.Tensor) -> torch.Tensor:
        x = settings.prepared(x, images, method)
        return torch.stack([network(x) for network in networks], 1)

    return embedded(images, run, EMBED_BATCH, (len(networks), settings.dim), features)


class C3dEncoder:
    """Embeds volumes with an untuned C3D: its weights, or the seed from which they are drawn for any size of volumes."""

    def __init__(self, settings: C3dSettings, seed: int, weights: Mapping[str, torch.Tensor] | None) -> None:
        self.settings, self.seed, self.weights = settings, seed, weights
        self._network: C3dNetwork | None = None

    @property
    def dim(self) -> int:
        """Number of units of fc6: 4096 times the width."""
        return self.settings.dim

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return the features fc6, (n, e) float32.

        Raises:
            DataError: the images are no volumes, of other than 1 or 3 channels, or hold NaN.

        """
        check_volumes(images, "c3d")
        network = self._built(self.settings.size_for(images))
        return np.asarray(features_of([network], images, self.settings, run, "c3d")[:, 0])

    def _built(self, size: tuple[int, int, int]) -> C3dNetwork:
        if self._network is None or self._network.size != size:
            network = C3dNetwork(size, self.settings.width, relu=self.settings.relu)
            if self.weights is None:
                draw_weights(network, torch_generator(self.seed))
            else:
                files.fill(network, self.weights, "the stored encoder", "c3d")
            self._network = network
        return self._network

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights where they were read from a file, and the settings."""
        arrays = {name: value.numpy() for name, value in (self.weights or {}).items()}
        return arrays, {**asdict(self.settings), "seed": self.seed}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> C3dEncoder:
        """Build the encoder from `to_arrays`' result."""
        weights = {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}
        return cls(C3dSettings.from_json(meta), meta["seed"], weights or None)


def network_from_file(settings: C3dSettings, tensors: Mapping[str, torch.Tensor], path: str, method: str) -> C3dNetwork:
    """Return the network with the weights that a file holds.

    Raises:
        DataError: they are of another network, width or size.

    """
    assert settings.size is not None
    network = C3dNetwork(settings.size, settings.width, relu=settings.relu)
    files.fill(network, tensors, path, method)
    return network


@dataclass(frozen=True)
class C3d:
    """A network of eight 3-D convolutions, trained on videos; the answers of its first fully connected layer, fc6, are
    the features of a volume. Without weights they are those of a random network. No image is asked for, so that one
    encoder serves all folds.

    A volume's slices stand for the frames. Grey volumes count as three equal channels. Volumes are resized to `size`:
    means along axes that shrink, linear between voxels along others.

    Source: D. Tran, L. Bourdev, R. Fergus, L. Torresani, M. Paluri: Learning Spatiotemporal Features with 3D Convolutional
    Networks, ICCV 2015, arXiv:1412.0767; fc6 of a nodule as in S. Hussein, P. Kandel, C. Bolan, M. Wallace, U. Bagci: Lung
    and Pancreatic Tumor Characterization in the Deep Learning Era, IEEE TMI 2019, arXiv:1801.03230.

    Differs from the paper: no mean video is subtracted (`value_range` shifts all pixels alike); random weights are
    drawn from N(0, 2 / fan_in).

    Raises:
        DataError: images that are no volumes, of other than 1 or 3 channels, or hold NaN; a weights file that is missing,
            cannot be read, has another checksum or is of another network.

    """

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
    weights: str = option("", "file of weights (.safetensors) under the names conv1.weight ... fc6.bias")
    sha256: str = option("", "checksum that the weights file must have")

    def __post_init__(self) -> None:
        files.check_options(self.weights, self.sha256)
        check_size(self.size, self.value_range)

    def sources(self) -> tuple[Path, ...]:
        """Return the weights file, where there is one."""
        return files.weight_files(self.weights)

    def fit(self, run: Run) -> C3dEncoder:
        """Return the encoder: nothing is learnt."""
        seed = int(run.rng.integers(2**62))
        size = SIZE if self.weights and self.size is None else self.size
        settings = C3dSettings(self.width, size, self.value_range, self.relu)
        if not self.weights:
            return C3dEncoder(settings, seed, None)
        tensors = files.read_weights(self.weights, self.sha256, "c3d")
        network = network_from_file(settings, tensors, self.weights, "c3d")
        return C3dEncoder(settings, seed, dict(network.state_dict()))
