"""Random planes through a cloud of vectors: on which side each vector lies, the cells between planes, and their margins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fewcore import Array

NEITHER = 2
"""Side of a vector within the margin; 1 is above, 0 below."""
CPU_BLOCK = 2**22
GPU_BLOCK = 2**27


@dataclass(frozen=True, eq=False)
class Planes:
    """Planes in e dimensions: unit normals (p, e) float64, and the signed distance (p,) of each from the origin."""

    normals: Array
    offsets: Array

    def __len__(self) -> int:
        return len(self.normals)


def draw_planes(n_planes: int, e: int, point_range: float, rng: np.random.Generator) -> Planes:
    """Return planes whose normals have components from U(-1, 1), scaled to length 1, and which pass through points of which
    every component is from U(-point_range, point_range).
    """
    normals = rng.uniform(-1, 1, (n_planes, e))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    points = rng.uniform(-point_range, point_range, (n_planes, e))
    return Planes(normals, (normals * points).sum(1))


def projection_std(vectors: Array) -> float:
    """Return the root mean square, over normals drawn as above, of the standard deviation of vectors (n, e) along a normal.

    Signs and components of a normal are exchangeable, so the mean of its outer product is 1/e on the diagonal: the mean
    variance is the mean of the components' variances.
    """
    return float(np.sqrt(vectors.var(0, dtype=np.float64).mean()))


def distances(vectors: torch.Tensor, planes: Planes) -> torch.Tensor:
    """Return the signed distance of vectors (n, e) from each plane, (p, n) float32."""
    normals = torch.from_numpy(planes.normals.astype(np.float32)).to(vectors.device)
    offsets = torch.from_numpy(planes.offsets.astype(np.float32)).to(vectors.device)
    return torch.addmm(-offsets[:, None], normals, vectors.T)


def sides_of(vectors: torch.Tensor, planes: Planes, margin: float, min_side: int) -> tuple[Array, torch.Tensor]:
    """Return which planes have `min_side` vectors on either side, (p,) bool, and of these the sides, (p', n) uint8.

    A vector is above at a distance of at least `margin`, below at one of at most -`margin`, else on neither side.
    """
    good, tables = [], []
    step = max(1, (CPU_BLOCK if vectors.device.type == "cpu" else GPU_BLOCK) // len(vectors))
    for start in range(0, len(planes), step):
        block = Planes(planes.normals[start : start + step], planes.offsets[start : start + step])
        apart = distances(vectors, block)
        above, below = apart >= margin, apart <= -margin
        large = (above.sum(1) >= min_side) & ((below & ~above).sum(1) >= min_side)
        side = above[large].to(torch.uint8).masked_fill_(~(above | below)[large], NEITHER)
        good.append(large.cpu().numpy())
        tables.append(side)
    return np.concatenate(good), torch.cat(tables)


def cells(sides: torch.Tensor, chosen: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cell of each vector, (b, n) int16, and the sizes of all cells, (b, 2**h) int64.

    `sides` is (p, n) uint8, `chosen` (b, h) the planes of each of b partitions. The bits of a cell's number are its sides,
    the first plane's the highest; a vector on neither side of one of the planes is in no cell, -1.
    """
    b, h = chosen.shape
    n = sides.shape[1]
    index = torch.from_numpy(chosen).to(sides.device)
    found = torch.zeros((b, n), dtype=torch.int16, device=sides.device)
    outside = torch.zeros((b, n), dtype=torch.bool, device=sides.device)
    for plane in range(h):
        side = sides.index_select(0, index[:, plane])
        found.mul_(2).add_(side)
        outside |= side == NEITHER
    found.masked_fill_(outside, -1)
    # Place 0 of each row counts the vectors that are in no cell.
    places = found.long() + 1 + torch.arange(b, device=sides.device)[:, None] * (2**h + 1)
    counts = torch.bincount(places.reshape(-1), minlength=b * (2**h + 1)).reshape(b, 2**h + 1)
    return found, counts[:, 1:]


def largest_margins(apart: Array, chosen: Array, n_cells: int, min_size: int) -> Array:
    """Return the largest margin at which each partition still has `n_cells` cells of `min_size` vectors, (b,).

    `apart` is (p, n), `chosen` (b, h). A vector leaves its cell when the margin passes its smallest distance, so a cell is
    large up to its `min_size`-th largest such distance. Negative infinity where even no margin leaves enough.
    """
    made = np.full(len(chosen), -np.inf)
    for number, planes in enumerate(chosen):
        nearest = np.abs(apart[planes]).min(0)
        cell = (apart[planes] >= 0).T @ (2 ** np.arange(len(planes)))
        order = np.lexsort((-nearest, cell))
        counts = np.bincount(cell)
        first = np.cumsum(counts) - counts
        limits = nearest[order[(first + min_size - 1)[counts >= min_size]]]
        if len(limits) >= n_cells:
            made[number] = np.sort(limits)[-n_cells]
    return made
