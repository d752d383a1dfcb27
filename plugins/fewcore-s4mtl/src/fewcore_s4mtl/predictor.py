"""The predictor that all learners of this distribution make: masks, classes, or both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from fewcore import (
    Array,
    Arrays,
    DataError,
    Gather,
    ImageSet,
    ImageSpec,
    Meta,
    Predictions,
    Run,
    load_module,
    module_arrays,
)
from fewcore_s4mtl.models import Architecture, bare
from fewcore_s4mtl.pixels import check_finite, scaled

PREDICT_BATCH = 32
FOR_MASKS = "for_masks."


class Outputs(nn.Module):
    """From pixels of a range to masks and scores: `for_masks` makes the masks where it is given, `model` what else there is."""

    def __init__(self, model: nn.Module, for_masks: nn.Module | None, value_range: tuple[float, float]) -> None:
        super().__init__()
        self.model, self.for_masks = model, for_masks
        self.low, self.high = value_range

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return masks (n, k, h, w) and scores (n, n_classes), whichever the model makes."""
        x = (2 / (self.high - self.low)) * (pixels - self.low) - 1
        said = self.model(x)
        masks = said.masks if self.for_masks is None else self.for_masks(x).masks
        made = {"masks": masks, "scores": said.scores}
        return {name: values for name, values in made.items() if values is not None}


class MasksAndClasses:
    """A trained model. `shape` is that of the images that it learnt from, (c, h, w).

    Where `for_masks` is given, a model of the same architecture with other weights, it makes the masks and `model` the classes.
    """

    def __init__(
        self, architecture: Architecture, model: nn.Module, for_masks: nn.Module | None, shape: tuple[int, ...]
    ) -> None:
        self.architecture = architecture
        self.model = model
        self.for_masks = for_masks
        self.shape = shape

    @torch.no_grad()
    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return masks (n, k, h, w) and scores (n, n_classes), both float32 in [0, 1], whichever the model makes.

        Raises:
            DataError: the images are of another shape than those of training, or hold NaN.

        """
        if images.shape != self.shape:
            raise DataError(f"predict: found images {images.shape}; expected {self.shape}, as in training")
        check_finite(images, "predict")
        models = [one.to(run.device).eval() for one in (self.model, self.for_masks) if one is not None]
        gather = Gather(images, run.device)
        parts: dict[str, list[Array]] = {"masks": [], "scores": []}
        for start in run.track(range(0, len(images), PREDICT_BATCH), name="predict"):
            rows = np.arange(start, min(start + PREDICT_BATCH, len(images)))
            x = scaled(gather(rows), images)
            said = [model(x) for model in models]
            for name, values in (("masks", said[-1].masks), ("scores", said[0].scores)):
                if values is not None:
                    parts[name].append(values.cpu().numpy())
        made = {name: np.concatenate(values) if values else None for name, values in parts.items()}
        return Predictions(images.ids, made["scores"], made["masks"])

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to masks and scores.

        Raises:
            DataError: the range of pixels is empty.

        """
        low, high = spec.value_range
        if not low < high:
            raise DataError(f"export: found value_range [{low:g}, {high:g}] in the images' spec; expected low < high")
        return Outputs(self.model, self.for_masks, spec.value_range)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the weights, and the architecture as JSON."""
        arrays = module_arrays(self.model)
        if self.for_masks is not None:
            arrays |= {f"{FOR_MASKS}{name}": values for name, values in module_arrays(self.for_masks).items()}
        return arrays, {"architecture": self.architecture.to_json(), "shape": list(self.shape)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> MasksAndClasses:
        """Build the predictor from `to_arrays`' result."""
        architecture = Architecture.from_json(meta["architecture"])
        own = {name.removeprefix(FOR_MASKS): values for name, values in arrays.items() if name.startswith(FOR_MASKS)}
        first = {name: values for name, values in arrays.items() if not name.startswith(FOR_MASKS)}
        for_masks = load_module(bare(architecture), own) if own else None
        return cls(architecture, load_module(bare(architecture), first), for_masks, tuple(meta["shape"]))
