"""Sheets of small pictures that show what a generator or a decoder makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fewcore import Array, Meta

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 10
GAP = 1
PAPER = 255


@dataclass(frozen=True, eq=False)
class Sheet:
    """Pictures (n, c, h, w) uint8, ten in each row from the top, and what to write below them."""

    pictures: Array
    caption: str

    @classmethod
    def of(cls, pictures: torch.Tensor, caption: str) -> Sheet:
        """Return a sheet of pictures (n, c, h, w), or volumes (n, c, d, h, w) by their middle slice, in [0, 1]."""
        if pictures.dim() == 5:
            pictures = pictures[:, :, pictures.shape[2] // 2]
        return cls((pictures.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy(), caption)

    def canvas(self) -> Array:
        """Return the sheet as one picture, (h, w, 3) in colour or (h, w) of the first channel."""
        n, c, h, w = self.pictures.shape
        rows = -(-n // COLUMNS)
        channels = 3 if c == 3 else 1
        canvas = np.full((rows, COLUMNS, h + GAP, w + GAP, channels), PAPER, np.uint8)
        cells = canvas.reshape(rows * COLUMNS, h + GAP, w + GAP, channels)
        cells[:n, :h, :w] = self.pictures[:, :channels].transpose(0, 2, 3, 1)
        whole = canvas.transpose(0, 2, 1, 3, 4).reshape(rows * (h + GAP), COLUMNS * (w + GAP), channels)
        return whole if channels == 3 else whole[..., 0]

    def draw(self, axes: Axes) -> str:
        """Draw the sheet and return its caption."""
        axes.imshow(self.canvas(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_axis_off()
        return self.caption

    def to_arrays(self) -> tuple[dict[str, Array], Meta]:
        """Return the pictures and the caption."""
        return {"sheet": self.pictures}, {"caption": self.caption}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta) -> Sheet:
        """Build the sheet from `to_arrays`' result."""
        return cls(np.asarray(arrays["sheet"]), meta["caption"])
