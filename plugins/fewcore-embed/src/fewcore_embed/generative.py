"""The encoder of a generative model: a network, the kind of images it knows, and a sheet of what the model generates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import nn

from fewcore import Array, Arrays, ImageSet, ImageSpec, Meta, Run, load_module, module_arrays
from fewcore_embed.batches import embedded
from fewcore_embed.image_kind import ImageKind
from fewcore_embed.sheets import Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EMBED_BATCH = 256
WEIGHTS = "network."


class CodeNetwork(nn.Module):
    """A network from images as `Gather` gives them, (n, c, h, w), to codes (n, dim), and the options it is built from."""

    dim: int

    def __init__(self, kind: ImageKind, options: Meta) -> None:
        super().__init__()
        self.kind, self.options = kind, options


class GenerativeEncoder:
    """Embeds images with `network`; `draw` shows the sheet. A method's own encoder says its name and how it builds."""

    method: ClassVar[str]
    builds: ClassVar[type[CodeNetwork]]

    def __init__(self, network: CodeNetwork, sheet: Sheet) -> None:
        self.codes, self.sheet = network.eval(), sheet

    @property
    def network(self) -> nn.Module:
        """The network, for stages that take it as their start."""
        return self.codes

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.codes.dim

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return the codes, (n, e) float32.

        Raises:
            DataError: the images have another shape or range than those of the training, or hold NaN.

        """
        self.codes.kind.check(images, self.method)
        network = self.codes.to(run.device).eval()

        def codes(x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = network(x)
            return made

        return embedded(images, run, EMBED_BATCH, (self.dim,), codes)

    def network_for_export(self, spec: ImageSpec) -> nn.Module:
        """Return the network from pixels to codes."""
        return self.codes

    def draw(self, axes: Axes) -> str:
        """Draw the sheet of generated pictures and return its caption."""
        return self.sheet.draw(axes)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return weights and sheet as arrays, and what the network is built from."""
        pictures, told = self.sheet.to_arrays()
        weights = {WEIGHTS + name: values for name, values in module_arrays(self.codes).items()}
        return {**weights, **pictures}, {**told, **self.codes.kind.to_json(), "options": dict(self.codes.options)}

    @classmethod
    def built(cls, kind: ImageKind, options: Meta, inputs: Mapping[str, Any]) -> CodeNetwork:
        """Return the network, its weights still to be loaded, from the options that were saved."""
        return cls.builds(kind, options)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Self:
        """Build the encoder from `to_arrays`' result."""
        network = cls.built(ImageKind.from_json(meta), meta["options"], inputs)
        weights = {name.removeprefix(WEIGHTS): values for name, values in arrays.items() if name.startswith(WEIGHTS)}
        load_module(network, weights)
        return cls(network, Sheet.from_arrays(arrays, meta))
