"""Pooled features of timm's networks as an embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from fewcore import (
    Array,
    Arrays,
    DataError,
    ImageSet,
    ImageSpec,
    Meta,
    Run,
    load_module,
    module_arrays,
    option,
    torch_generator,
)
from fewcore_embed import weights as files
from fewcore_embed.batches import embedded
from fewcore_embed.exported import Steps
from fewcore_embed.prepare import check_channels, check_images, coloured, in_unit_range, resized
from fewcore_embed.timm_backbone import Timm, TimmNetwork

EMBED_BATCH = 32


class TimmEncoder:
    """Embeds pictures with the pooled features of a network of timm; `size` 0 leaves them as large as they are."""

    def __init__(self, model: str, size: int, built_for: int, network: TimmNetwork) -> None:
        self.model, self.size, self.built_for, self.network = model, size, built_for, network.eval()

    @property
    def dim(self) -> int:
        """Number of pooled features."""
        return self.network.dim

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return the features, (n, e) float32.

        Raises:
            DataError: the images are volumes, of other than 1 or 3 channels, too small for the network, or hold NaN.

        """
        check_images(images, "timm")
        check_channels(images, "timm")
        network = self.network.to(run.device)

        def features(x: torch.Tensor) -> torch.Tensor:
            x = in_unit_range(x, images, "timm")
            x = coloured(resized(x, (self.size, self.size)) if self.size else x)
            try:
                return cast("torch.Tensor", network(x))
            except (RuntimeError, AssertionError, ValueError) as error:
                if isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error) or "cuDNN" in str(error):
                    raise
                raise DataError(
                    f"timm: {self.model} cannot take images {images.shape}: {error} (set size, or a larger image size)"
                ) from error

        return embedded(images, run, EMBED_BATCH, (self.dim,), features)

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to features; a `size` of its own is part of it."""
        low, high = spec.value_range

        def prepared(pixels: torch.Tensor) -> torch.Tensor:
            x = (pixels - low) / (high - low)
            return coloured(resized(x, (self.size, self.size)) if self.size else x)

        return Steps(self.network, prepared)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights, and what the network is built from."""
        normalised = {name: getattr(self.network, name).flatten().tolist() for name in ("mean", "std")}
        meta = {"model": self.model, "size": self.size, "built_for": self.built_for, **normalised}
        return module_arrays(self.network), meta

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> TimmEncoder:
        """Build the encoder from `to_arrays`' result."""
        side = meta["built_for"]
        network = Timm(model=meta["model"]).build((3, side, side), 0, torch_generator(0))
        load_module(network, arrays)
        network.mean, network.std = (torch.tensor(meta[name])[:, None, None] for name in ("mean", "std"))
        return cls(meta["model"], meta["size"], side, network)


@dataclass(frozen=True)
class TimmEmbedder:
    """The pooled features of a network of timm (PyTorch Image Models) by its name there. Without weights they are those
    of a random network. No image is asked for, so that one encoder serves all folds.

    Grey pictures have three equal channels. Where weights are trained, pictures are normalised with the mean and
    deviation that belong to them. Batch norm takes its running statistics.

    Source: R. Wightman: PyTorch Image Models, 2019, doi:10.5281/zenodo.4414861.

    Differs from the paper: nothing known.

    Raises:
        PipelineError: timm has no network of that name.
        DataError: images that are volumes, of other than 1 or 3 channels, too small, or hold NaN; a weights file that is
            missing, no safetensors, has another checksum or is of another network.
        ResourceError: pre-trained weights cannot be fetched.

    """

    model: str = option("resnet18", "the network's name in timm: resnet18, densenet121, vit_tiny_patch16_224 ...")
    size: int = option(
        0,
        "side that pictures are resized to; 0: their own, or the network's where it takes but one",
        unit="pixels",
        low=0,
    )
    pretrained: bool = option(False, "take the weights that timm fetches for this network")
    weights: str = option("", "take this file of weights (.safetensors, with timm's names)")
    sha256: str = option("", "checksum that the weights file must have")

    def __post_init__(self) -> None:
        self._network()

    def sources(self) -> tuple[Path, ...]:
        """Return the weights file, where there is one."""
        return files.weight_files(self.weights)

    def fit(self, run: Run) -> TimmEncoder:
        """Return the encoder: nothing is learnt."""
        backbone = self._network()
        config = backbone._config()
        own = int(config.input_size[-1])
        size = own if config.fixed_input_size and not self.size else self.size
        network = backbone.build((3, size or own, size or own), 0, run.generator)
        return TimmEncoder(self.model, size, size or own, network)

    def _network(self) -> Timm:
        return Timm(self.model, self.pretrained, self.weights, self.sha256)
