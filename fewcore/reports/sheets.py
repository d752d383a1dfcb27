"""Contact sheets of images for the page: a strip a group, as PNG, with a clear ground that fits light and dark."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fewcore.contracts import Array
from fewcore.errors import DataError

if TYPE_CHECKING:
    from fewcore.reports.report import Picture

TILE = 64
GAP = 4
IN_A_LINE = 6
MOST_ROWS = 16


@dataclass(frozen=True)
class Strip:
    """Some images side by side: a data URI, its size in pixels, and what it shows in words."""

    role: str
    uri: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Sheet:
    """Strips under names; where the images of a task have roles, support and query stand side by side."""

    title: str
    caption: str
    rows: tuple[tuple[str, tuple[Strip, ...]], ...]
    left_out: int = 0


def sheet_of(picture: Picture) -> Sheet:
    """Return the contact sheet of a picture that has images.

    Raises:
        DataError: the picture has no images, or as many groups or roles as it has not images.

    """
    if picture.images is None:
        raise DataError(f"picture '{picture.title}': found no images; expected (m, c, h, w) or (m, c, d, h, w)")
    n = len(picture.images)
    groups = np.zeros(n, int) if picture.groups is None else np.asarray(picture.groups)
    roles = np.zeros(n, int) if picture.roles is None else np.asarray(picture.roles)
    if len(groups) != n or len(roles) != n:
        raise DataError(
            f"picture '{picture.title}': found {len(groups)} groups, {len(roles)} roles; expected {n} of each"
        )
    tiles = _tiles(picture.images)
    parts = ((0, "support"), (1, "query")) if picture.roles is not None else ((0, ""),)
    rows = []
    present = [int(group) for group in np.unique(groups)]
    for group in present[:MOST_ROWS]:
        name = _name(picture, group)
        strips = []
        for role, word in parts:
            chosen = tiles[(groups == group) & (roles == role)]
            if len(chosen):
                count = f"{len(chosen)} {word} image{'s' if len(chosen) != 1 else ''}".replace("  ", " ")
                strips.append(_strip(chosen, word, f"{picture.title}, {name or 'sample'}: {count}"))
        rows.append((name, tuple(strips)))
    return Sheet(picture.title, picture.caption, tuple(rows), max(0, len(present) - MOST_ROWS))


def _name(picture: Picture, group: int) -> str:
    if picture.groups is None:
        return ""
    if group < 0:
        return "in no part"
    return picture.labels[group] if group < len(picture.labels) else f"{group}"


def _tiles(images: Array) -> Array:
    """Return images as (m, h, w, 3) uint8: the middle slice of volumes; floats stretched from lowest to highest."""
    flat = images[:, :, images.shape[2] // 2] if images.ndim == 5 else images
    if flat.dtype != np.uint8:
        values = np.nan_to_num(flat.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
        low, high = (0.0, 1.0) if low >= 0 and 0 < high <= 1 else (low, high)
        flat = np.round(255 * (values - low) / ((high - low) or 1.0)).astype(np.uint8)
    colour = flat if flat.shape[1] == 3 else np.repeat(flat[:, :1], 3, 1)
    return np.asarray(colour.transpose(0, 2, 3, 1))


def _strip(tiles: Array, role: str, alt: str) -> Strip:
    resized = [_resized(tile) for tile in tiles]
    wide, high = resized[0].size
    across = min(IN_A_LINE, len(resized))
    lines = -(-len(resized) // across)
    size = (across * (wide + GAP) - GAP, lines * (high + GAP) - GAP)
    canvas = Image.new("RGBA", size, (0, 0, 0, 0))
    for index, tile in enumerate(resized):
        canvas.paste(tile, (index % across * (wide + GAP), index // across * (high + GAP)))
    file = io.BytesIO()
    grey = bool((tiles == tiles[..., :1]).all())
    (canvas.convert("LA") if grey else canvas).save(file, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return Strip(role, uri, *size, alt)


def _resized(tile: Array) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(tile))
    longest = max(image.size)
    if longest > 96:
        scale = 96 / longest
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return image.resize(size, Image.Resampling.LANCZOS)
    times = max(1, round(TILE / longest))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
