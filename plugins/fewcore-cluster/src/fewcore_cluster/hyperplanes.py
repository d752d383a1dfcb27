"""Hyperplane partitions: random planes cut the embedding into cells, with a margin in which vectors belong to none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from fewcore import Array, DataError, Embeddings, Partitions, Run, child_seed, numpy_generator, option
from fewcore_cluster.planes import cells, distances, draw_planes, largest_margins, projection_std, sides_of

SIDE_FACTOR = 10
TOGETHER = 8
"""Partitions of one step: the same on every device, so that a checkpoint fits everywhere."""
TRIAL_PLANES, TRIAL_PARTITIONS = 200, 100


@dataclass(frozen=True)
class Hyperplanes:
    """Cells between random planes through the embedding, ceil(log2 n_way) planes a partition.

    A plane's normal has components from U(-1, 1), scaled to length 1; it passes through a point with components from
    U(-point_range, point_range). Of all planes so drawn, the first `candidates` are taken that have at least
    10 min_size images on either side of the margin. A partition takes distinct planes of these; an image belongs to the
    cell of its sides, or to no part where its distance from one of the planes is below the margin. A partition is
    accepted where at least `n_way` cells have `min_size` images, and is otherwise drawn again. Small cells stay: what is
    too small depends on shots and queries, so the task sampler leaves them out.

    A margin is a distance in the embedding. In units of `projection_std` it is multiplied by the standard deviation of
    the vectors along a random direction, so that one number serves embeddings of every scale. The learning curve shows
    `survivors`, the share of images that are in parts of at least `min_size`, and `draws`, partitions drawn for one
    accepted. Partition p depends on the seed and p alone.

    Source: K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334, section 4.2
    and appendix C; distributions of normals and points, and the rule of 10 min_size, from the authors' code.

    Differs from the paper: rejections are bounded; margins may be given in standard deviations, and are so by default.
    The default margin is about what the paper's 1.2 is on ACAI's vectors.

    Raises:
        DataError: vectors of several targets, NaN or infinity in them, too few of them, or too few planes or partitions
            accepted; the message gives the vectors' projection_std and a margin to try.

    """

    n_way: int = option(20, "classes of the tasks that will be drawn", paper="20 on Omniglot, else 5", low=2, high=4096)
    n_partitions: int = option(2400, "partitions", paper="2400 on Omniglot, 4800 on miniImageNet", low=1)
    margin: float = option(
        0.5, "images nearer to a plane are in no part", paper="0; 1.2, 0.5, 0.9 or 0.1 absolute", low=0
    )
    margin_units: Literal["projection_std", "absolute"] = option(
        "projection_std",
        "what the margin counts: standard deviations along a random direction, or distance",
        paper="absolute",
    )
    min_size: int = option(6, "images that a cell must have to count", paper="shots + queries: 6 (MAML)", low=1)
    candidates: int = option(1000, "planes from which partitions choose", paper="1000", low=1)
    point_range: float = option(
        0.8, "half width of the cube of points through which planes pass", paper="0.8; DeepCluster 0", low=0
    )
    max_retries: int = option(300, "further draws of a plane or partition before giving up", low=0)

    def __post_init__(self) -> None:
        if self.candidates < self._n_planes:
            raise ValueError(
                f"candidates: found {self.candidates}; expected at least {self._n_planes}, the planes of a partition for "
                f"n_way {self.n_way}"
            )
        if not (math.isfinite(self.margin) and math.isfinite(self.point_range)):
            raise ValueError(f"margin, point_range: found {self.margin}, {self.point_range}; expected finite numbers")

    @property
    def _n_planes(self) -> int:
        return (self.n_way - 1).bit_length()

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        """Return partitions (n_partitions, n) of the stage's vectors (n, e), with parts 0 to 2**ceil(log2 n_way) - 1."""
        vectors = self._checked(embeddings)
        seed = int(run.rng.integers(2**62))
        std = projection_std(vectors)
        margin = self.margin * (std if self.margin_units == "projection_std" else 1.0)
        rows = torch.tensor(vectors, device=run.device)
        sides = self._sides(rows, margin, std, seed, run)
        n = len(vectors)
        parts = np.full((self.n_partitions, n), -1, np.min_scalar_type(-(2**self._n_planes)))
        for step in run.loop(math.ceil(self.n_partitions / TOGETHER), name="partitions", parts=parts):
            numbers = np.arange(step * TOGETHER, min((step + 1) * TOGETHER, self.n_partitions))
            survivors, draws = self._fill(parts, numbers, sides, (rows, std, seed))
            run.log(survivors=survivors, draws=draws, projection_std=std)
        return Partitions(parts, embeddings.ids)

    def _checked(self, embeddings: Embeddings) -> Array:
        vectors = embeddings.vectors
        if vectors.ndim != 2:
            raise DataError(f"hyperplanes: found vectors {vectors.shape}; expected (n, e), one vector an image")
        least = 2 * SIDE_FACTOR * self.min_size
        if len(vectors) < least:
            raise DataError(
                f"hyperplanes: found {len(vectors)} vectors; expected at least {least}, {SIDE_FACTOR} min_size on either "
                f"side of a plane (lower min_size, now {self.min_size})"
            )
        bad = ~np.isfinite(vectors).all(1)
        if bad.any():
            raise DataError(
                f"hyperplanes: found NaN or infinity in {int(bad.sum())} of {len(vectors)} vectors, first in row "
                f"{int(bad.argmax())}; expected finite numbers (look at the embedder's learning curve)"
            )
        return np.ascontiguousarray(vectors, np.float32)

    def _sides(self, rows: torch.Tensor, margin: float, std: float, seed: int, run: Run) -> torch.Tensor:
        """Return the sides (candidates, n) uint8 of the planes that are taken."""
        n, e = rows.shape
        rng = numpy_generator(child_seed(seed, "planes"))
        tables: list[torch.Tensor] = []
        found = drawn = 0
        for _ in range(self.max_retries + 1):
            planes = draw_planes(self.candidates, e, self.point_range, rng)
            good, sides = sides_of(rows, planes, margin, SIDE_FACTOR * self.min_size)
            tables.append(sides[: self.candidates - found])
            found, drawn = found + int(good.sum()), drawn + len(planes)
            if found >= self.candidates:
                return torch.cat(tables)
            if not good.any():
                break
        raise DataError(
            f"hyperplanes: found {found} planes in {drawn} draws with at least {SIDE_FACTOR * self.min_size} of {n} images "
            f"on either side of margin {margin:.3g}; expected {self.candidates} ({self._advice(rows, std, seed)})"
        )

    def _fill(
        self, parts: Array, numbers: Array, sides: torch.Tensor, about: tuple[torch.Tensor, float, int]
    ) -> tuple[float, float]:
        """Draw the partitions `numbers` into `parts`; return the mean share of survivors and the mean number of draws."""
        rows, std, seed = about
        generators = {int(number): numpy_generator(child_seed(seed, "partition", int(number))) for number in numbers}
        left, draws, survivors = numbers, 0, 0.0
        best = np.zeros(len(numbers), np.int64)
        for _ in range(self.max_retries + 1):
            chosen = np.stack([_distinct(generators[int(number)], len(sides), self._n_planes) for number in left])
            found, counts = cells(sides, chosen)
            large = counts >= self.min_size
            n_large = large.sum(1).cpu().numpy()
            good = n_large >= self.n_way
            parts[left[good]] = found.cpu().numpy()[good]
            survivors += float((counts * large).sum(1).cpu().numpy()[good].sum()) / len(rows)
            draws += len(left)
            best[left - numbers[0]] = np.maximum(best[left - numbers[0]], n_large)
            left = left[~good]
            if not len(left):
                return survivors / len(numbers), draws / len(numbers)
        raise DataError(
            f"hyperplanes: partition {int(left[0])}: found at most {best[left[0] - numbers[0]]} cells with at least {self.min_size} of "
            f"{len(rows)} images in {self.max_retries + 1} draws of {self._n_planes} planes; expected {self.n_way} "
            f"({self._advice(rows, std, seed)})"
        )

    def _advice(self, rows: torch.Tensor, std: float, seed: int) -> str:
        """Return the projection std and the margin with which about half of all partitions would be accepted."""
        limit = self._median_limit(rows, seed) / (std if self.margin_units == "projection_std" and std else 1.0)
        told = f"the vectors' projection std is {std:.3g}"
        if limit <= 0:
            return f"{told}; no margin helps: whiten the vectors, or lower n_way or min_size"
        places = 1 - math.floor(math.log10(limit))
        return f"{told}; type margin: {math.floor(limit * 10**places) / 10**places:g}"

    def _median_limit(self, rows: torch.Tensor, seed: int) -> float:
        """Return the median over trial partitions of the largest margin with which each is accepted, 0 for none."""
        rng = numpy_generator(child_seed(seed, "advice"))
        planes = draw_planes(TRIAL_PLANES, rows.shape[1], self.point_range, rng)
        apart = distances(rows, planes).cpu().numpy()
        of_planes = _plane_limits(apart, SIDE_FACTOR * self.min_size)
        usable = np.flatnonzero(of_planes > 0)
        if len(usable) < self._n_planes:
            return 0.0
        chosen = usable[np.stack([_distinct(rng, len(usable), self._n_planes) for _ in range(TRIAL_PARTITIONS)])]
        limits = np.minimum(largest_margins(apart, chosen, self.n_way, self.min_size), of_planes[chosen].min(1))
        return max(0.0, float(np.median(limits)))


def _plane_limits(apart: Array, min_side: int) -> Array:
    """Return the largest margin at which each plane has `min_side` vectors on either side; `apart` is (p, n)."""
    ordered = np.partition(apart, (min_side - 1, apart.shape[1] - min_side), axis=1)
    return np.asarray(np.minimum(ordered[:, -min_side], -ordered[:, min_side - 1]))


def _distinct(rng: np.random.Generator, n: int, k: int) -> Array:
    """Return k distinct integers below n."""
    return rng.choice(n, k, replace=False)
