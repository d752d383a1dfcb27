"""Partitioners that compute nothing: true classes, chance, an embedder's own clusters, and several in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fewcore import Array, DataError, Embeddings, ImageSet, Partitions, PluginError, Run, option


@dataclass(frozen=True)
class Labels:
    """The true classes as one partition: the oracle with which others are compared. Unknown labels are in no part.

    Source: K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334 (Oracle).

    Raises:
        DataError: there is no such class target.

    """

    target: str = option("", "the class target to take; by default the one that the pipeline means")

    deterministic: ClassVar[bool] = True

    def partition(self, images: ImageSet, run: Run) -> Partitions:
        """Return one partition (1, n), its parts named as the classes."""
        if not self.target:
            return Partitions(images.labels.astype(np.int64)[None], images.ids, names=images.class_names)
        found = images.targets.get(self.target)
        if found is None or found.kind != "class":
            classes = sorted(name for name, target in images.targets.items() if target.kind == "class")
            raise DataError(f"labels: target '{self.target}' is no class target here; expected one of {classes}")
        return Partitions(found.values.astype(np.int64)[None], images.ids, names=found.names)


@dataclass(frozen=True)
class Random:
    """Each image in a part drawn uniformly, anew for each partition: the negative control.

    Source: K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334 (Random);
    numbers of parts and partitions from the authors' code.
    """

    n_parts: int = option(500, "parts of a partition", paper="500", low=1)
    n_partitions: int = option(2400, "partitions, each drawn anew", paper="2400", low=1)

    def partition(self, images: ImageSet, run: Run) -> Partitions:
        """Return partitions (n_partitions, n), drawn from `run.rng`; the images themselves are not read."""
        dtype = np.min_scalar_type(-self.n_parts)
        parts = run.rng.integers(self.n_parts, size=(self.n_partitions, len(images)), dtype=dtype)
        return Partitions(parts, images.ids)


@dataclass(frozen=True)
class Own:
    """The clusters that the embedder itself has, such as DeepCluster's or InfoGAN's.

    Raises:
        PluginError: the encoder has no clusters of its own (no `assign`).

    """

    deterministic: ClassVar[bool] = True

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        """Return one partition (1, n): `encoder.assign(vectors)`."""
        assign = getattr(embeddings.encoder, "assign", None)
        if assign is None:
            raise PluginError(
                f"own: {type(embeddings.encoder).__name__} has no clusters of its own; expected an encoder with "
                "assign(vectors) (use another partitioner, such as kmeans)"
            )
        return Partitions(np.asarray(assign(embeddings.vectors), np.int64)[None], embeddings.ids)


@dataclass(frozen=True)
class Union:
    """Several partitioners' partitions in one, each partitioner with an explicit probability.

    `share` says with which probability a task comes from each of them, in the order of `from:`; within one, its own
    weights hold. Without it every partitioner is equally likely.

    Source: K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334, section 4.5
    (clusters and labels mixed on ImageNet).

    Differs from the paper: the probability is given, not derived from the amounts of data.

    Raises:
        DataError: the partitions stand on different rows, or `share` has another length.

    """

    share: tuple[float, ...] = option((), "probability of each partitioner, in the order of from:", paper="0.97, 0.03")

    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.share and (min(self.share) < 0 or not np.isclose(sum(self.share), 1)):
            raise ValueError(f"share: found {list(self.share)}; expected probabilities that sum to 1")

    def partition(self, partitions: tuple[Partitions, ...], run: Run) -> Partitions:
        """Return all partitions, (p, n), and their weights; parts keep their names where all agree on them."""
        share = self.share or tuple([1 / len(partitions)] * len(partitions))
        if len(share) != len(partitions):
            raise DataError(f"union: found {len(share)} shares; expected {len(partitions)}, one for each in from:")
        first = partitions[0]
        for number, other in enumerate(partitions[1:], 2):
            if not np.array_equal(other.ids, first.ids):
                raise DataError(f"union: partitioner {number} of from: stands on other rows than the first")
        weights: Array = np.concatenate([s * p.weights for s, p in zip(share, partitions, strict=True)])
        parts: Array = np.concatenate([p.parts for p in partitions])
        names = first.names if all(p.names == first.names for p in partitions) else ()
        return Partitions(parts, first.ids, weights, names)
