"""The 2-D networks of timm as backbones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewcore import DataError, PipelineError, ResourceError, option
from fewcore_embed import weights as files

SUGGESTIONS = 3


class TimmNetwork(nn.Module):
    """Images (n, c, h, w) to features (n, e), or by a linear `head` to outputs (n, n_outputs)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, features: nn.Module, dim: int, n_outputs: int, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(dim, n_outputs) if n_outputs else nn.Identity()
        self.dim = dim
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, e) or (n, n_outputs)."""
        return self.head(self.features((x - self.mean) / self.std))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Timm:
    """A network of timm (PyTorch Image Models) by its name there, with a linear layer in place of its classifier.

    The number of input channels, and for transformers the image size, are the images'. Initial weights are timm's,
    drawn from the given generator. Where weights are pre-trained, images are expected in [0, 1] and are normalised with
    the mean and deviation that belong to the weights; a first layer trained on colour is summed for grey images.

    Source: R. Wightman: PyTorch Image Models, 2019, doi:10.5281/zenodo.4414861.

    Differs from the paper: nothing known.

    Raises:
        PipelineError: timm has no network of that name.
        DataError: the images are volumes or too small; the weights file is missing, no safetensors, has
            another checksum, or is of another network.
        ResourceError: pre-trained weights cannot be fetched.

    """

    model: str = option("resnet18", "the network's name in timm: resnet18, densenet121, vit_tiny_patch16_224 ...")
    pretrained: bool = option(False, "start from the weights that timm fetches for this network")
    weights: str = option("", "start from this file of weights (.safetensors, with timm's names)")
    sha256: str = option("", "checksum that the weights file must have")

    def __post_init__(self) -> None:
        files.check_options(self.weights, self.sha256)
        if self.pretrained and self.weights:
            raise ValueError("weights: found beside pretrained: true; expected one of them")

    def sources(self) -> tuple[Path, ...]:
        """Return the weights file, where there is one."""
        return files.weight_files(self.weights)

    def build(self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> TimmNetwork:
        """Return the network for images of `shape` (c, h, w), on the CPU."""
        import timm

        if len(shape) != 3:
            raise DataError(f"timm: found images {shape}; expected 2-D images (c, h, w) (use monai for volumes)")
        config = self._config()
        options: dict[str, Any] = {"in_chans": shape[0], "num_classes": 0}
        if config.fixed_input_size and tuple(config.input_size[1:]) != shape[1:]:
            options["img_size"] = shape[1:]
        seed = int(torch.randint(2**62, (1,), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            features = self._features(timm, options, shape)
            dim = self._dim(features, shape)
            trained = self.pretrained or bool(self.weights)
            mean, std = (torch.tensor(v if trained else (w,)) for v, w in ((config.mean, 0.0), (config.std, 1.0)))
            if shape[0] != len(mean):
                mean, std = mean.mean()[None], std.mean()[None]
            return TimmNetwork(features, dim, n_outputs, mean[:, None, None], std[:, None, None])

    def _config(self) -> Any:
        import timm

        if timm.is_model(self.model):
            return timm.get_pretrained_cfg(self.model) or timm.models.PretrainedCfg()
        import difflib

        near = difflib.get_close_matches(self.model, timm.list_models(), n=SUGGESTIONS, cutoff=0.5)
        advice = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise PipelineError(f"timm: found model '{self.model}'; expected the name of a network in timm ({advice})")

    def _features(self, timm: Any, options: dict[str, Any], shape: tuple[int, ...]) -> nn.Module:
        if self.weights:
            self._check_weights(timm.create_model(self.model, **options))
            return _module(
                timm.create_model(self.model, True, pretrained_cfg_overlay={"file": self.weights}, **options)
            )
        try:
            return _module(timm.create_model(self.model, self.pretrained, **options))
        except (OSError, RuntimeError) as error:
            if not self.pretrained:
                raise DataError(f"timm: {self.model} cannot be built for images {shape}: {error}") from error
            raise ResourceError(
                f"timm: the weights of {self.model} cannot be fetched: {error} (fetch them elsewhere and set weights: FILE)"
            ) from error

    def _check_weights(self, network: nn.Module) -> None:
        from safetensors import SafetensorError, safe_open

        path = Path(self.weights)
        if path.suffix != ".safetensors" or not path.is_file():
            raise DataError(f"timm: weights: found '{path}'; expected an existing .safetensors file")
        files.check_file(self.weights, self.sha256, "timm")
        try:
            with safe_open(path, "pt") as file:
                names = set(file.keys())
        except SafetensorError as error:
            raise DataError(f"timm: weights: {path} is no safetensors file: {error}") from error
        missing = [name for name, _ in network.named_parameters() if name not in names]
        if missing:
            raise DataError(
                f"timm: weights: {path} lacks {len(missing)} of {self.model}'s parameters, the first '{missing[0]}'; "
                "expected the weights of this network under timm's names"
            )

    def _dim(self, features: nn.Module, shape: tuple[int, ...]) -> int:
        try:
            with torch.no_grad():
                found = features.eval()(torch.zeros(1, *shape))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise DataError(
                f"timm: {self.model} cannot take images {shape}: {error} (choose another model or a larger image size)"
            ) from error
        features.train()
        return int(found.shape[1])


def _module(network: Any) -> nn.Module:
    assert isinstance(network, nn.Module)
    return network
