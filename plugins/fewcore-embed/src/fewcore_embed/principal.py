"""Principal directions of many vectors, divided by their spread: what PCA-whitening multiplies by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import linalg

from fewcore import Array, DataError

CHUNK = 4096
SMALLEST_SHARE = 1e-6


@dataclass(frozen=True, eq=False)
class Principal:
    """The mean (e,) and a matrix (e, d) of vectors (n, e), float32: (vector - mean) @ matrix has unit variance in each of
    d directions, which are uncorrelated and stand from the widest to the narrowest.
    """

    mean: Array
    matrix: Array

    def project(self, vectors: Array, device: torch.device, *, unit_length: bool) -> torch.Tensor:
        """Return the whitened vectors (n, d) float32 on a device, divided by their lengths with `unit_length`."""
        mean, matrix = (torch.tensor(values, device=device) for values in (self.mean, self.matrix))
        parts = [vectors[start : start + CHUNK] for start in range(0, len(vectors), CHUNK)]
        moved = [(on_device(part, device).float() - mean) @ matrix for part in parts]
        found = torch.cat(moved) if moved else mean.new_zeros(0, matrix.shape[1])
        return unit_rows(found) if unit_length else found


def on_device(values: Array, device: torch.device) -> torch.Tensor:
    """Return an array as a tensor of its own dtype on a device; on the CPU it may share the array's memory."""
    return torch.from_numpy(values if values.flags.writeable else values.copy()).to(device)


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """Return x (n, d) with each row divided by its length; a row of zeros stays."""
    return torch.nn.functional.normalize(x, dim=1, eps=1e-12)


def principal(vectors: Array, dim: int, device: torch.device, who: str) -> Principal:
    """Return the `dim` widest principal directions of vectors (n, e), or fewer where the vectors span fewer.

    Vectors of fewer rows than numbers are turned round, so that the smaller of the two products is decomposed. Variances
    are those of a sample (n - 1), as scikit-learn's PCA has them; of a direction's two signs the one whose largest
    component is positive.

    Raises:
        DataError: fewer than two vectors, NaN or infinity, or all vectors equal.

    """
    n, e = vectors.shape
    if n < 2:
        raise DataError(f"{who}: found {n} vectors; expected at least two")
    mean = torch.zeros(e, dtype=torch.float64, device=device)
    for start in range(0, n, CHUNK):
        mean += _rows(vectors, start, device).sum(0) / n
    if not bool(torch.isfinite(mean).all()):
        raise DataError(f"{who}: found NaN or infinity in the vectors; expected finite numbers (train them anew)")
    if n <= e:
        centred = _rows(vectors, 0, device, n) - mean
        squares, weights = _largest(centred @ centred.T, min(dim, n - 1))
        directions = centred.T @ weights
    else:
        scatter = torch.zeros(e, e, dtype=torch.float64, device=device)
        for start in range(0, n, CHUNK):
            centred = _rows(vectors, start, device) - mean
            scatter.addmm_(centred.T, centred)
        squares, directions = _largest(scatter, min(dim, e))
    spread = squares.clamp(min=0).sqrt()
    kept = spread > SMALLEST_SHARE * torch.maximum(spread[0], mean.abs().max())
    if not bool(kept.any()):
        raise DataError(f"{who}: found equal vectors throughout; expected some spread")
    directions = directions[:, kept] / directions[:, kept].norm(dim=0)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    matrix = directions * largest.sign() / (spread[kept] / (n - 1) ** 0.5)
    return Principal(_single(mean), _single(matrix))


def _single(values: torch.Tensor) -> Array:
    return np.asarray(values.to(torch.float32).cpu().numpy())


def _rows(vectors: Array, start: int, device: torch.device, count: int = CHUNK) -> torch.Tensor:
    return on_device(vectors[start : start + count], device).double()


def _largest(matrix: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest eigenvalues (count,) of a symmetric matrix (m, m), descending, and their vectors (m, count)."""
    if matrix.device.type != "cpu":
        values, vectors = torch.linalg.eigh(matrix)
        return values.flip(0)[:count], vectors.flip(1)[:, :count]
    size = len(matrix)
    own, basis = linalg.eigh(matrix.numpy(), subset_by_index=(size - count, size - 1), check_finite=False)
    return torch.from_numpy(own[::-1].copy()), torch.from_numpy(basis[:, ::-1].copy())
