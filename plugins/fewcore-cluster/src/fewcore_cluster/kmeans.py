"""k-means partitions under random scalings: how CACTUs turns one embedding into many labelings."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from fewcore import DataError, Embeddings, Partitions, Run, child_seed, numpy_generator, option
from fewcore_cluster.lloyd import Clusters, cluster

VALUES_SIDE_BY_SIDE = 2**28
"""Values of the vectors that are clustered at the same time: 1 GiB of float32."""


@contextmanager
def _side_by_side(n_values: int, device: torch.device) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Yield a pool and its number of workers: on a CPU partitions are clustered side by side, with one thread each.

    That is faster than one after the other with all threads, most steps being small; and results do not depend on how
    many threads there are. Vectors so many that copies of them would fill the memory have all threads in turn.
    """
    n_threads = torch.get_num_threads()
    n_workers = min(n_threads, VALUES_SIDE_BY_SIDE // n_values) if device.type == "cpu" else 1
    with ThreadPoolExecutor(max(1, n_workers)) as pool:
        if n_workers > 1:
            torch.set_num_threads(1)
        try:
            yield pool, max(1, n_workers)
        finally:
            torch.set_num_threads(n_threads)


@dataclass(frozen=True)
class KMeans:
    """Several k-means clusterings of the vectors, each under another random scaling of their dimensions.

    The first partition clusters the vectors as they are. Each other multiplies every dimension by its own number from
    U(0, 1) first, so that its metric is diag(w^2). A clustering is accepted where more than `share` of its clusters have
    at least `min_size` members, and is otherwise drawn again. Small clusters stay: what is too small depends on shots
    and queries, so the task sampler leaves them out.

    Partition p depends on the seed and p alone: it is the same in a run of 5 partitions and in one of 100.

    Source: K. Hsu, S. Levine, C. Finn: Unsupervised Learning via Meta-Learning, ICLR 2019, arXiv:1810.02334; details
    from the authors' code. D. Arthur, S. Vassilvitskii: k-means++, SODA 2007; S. P. Lloyd: Least squares quantization
    in PCM, 1982, doi:10.1109/TIT.1982.1056489; G. Hamerly: Making k-means even faster, SDM 2010,
    doi:10.1137/1.9781611972801.12 (rows that need no comparison).

    Differs from the paper: retries are bounded. After k-means++ the first iterations trade cheap merges for gainful
    splits, and an iteration that changes at most two rows in a thousand is the last; on the data of the benchmark the
    sum of squared distances ends no higher than scikit-learn's. The paper's code asks for more than 75% of clusters with
    more than 6 members (MAML) or 80% with at least 16 (prototypical networks); the default is the latter.

    Raises:
        DataError: there are fewer vectors than clusters, vectors of several targets, NaN or infinity in them, or no
            clustering is accepted.

    """

    n_clusters: int = option(500, "clusters of a partition (k)", paper="500; 10 on MNIST", low=1)
    n_partitions: int = option(1, "partitions", paper="100 on Omniglot, 50 on miniImageNet and CelebA", low=1)
    scaling: bool = option(True, "scale the dimensions at random in all partitions but the first")
    n_init: int = option(1, "clusterings of which the tightest is taken", paper="1 to 10", low=1)
    max_iter: int = option(3000, "most iterations of Lloyd's algorithm", unit="iterations", low=1)
    min_size: int = option(
        16, "members from which a cluster counts as large", unit="images", paper="shots + queries: 16 or 7", low=1
    )
    share: float = option(0.8, "a clustering with more than this share of large clusters is accepted", low=0, high=1)
    max_retries: int = option(10, "further clusterings to try before giving up", low=0)

    def partition(self, embeddings: Embeddings, run: Run) -> Partitions:
        """Return partitions (n_partitions, n) of the stage's vectors (n, e)."""
        vectors = self._checked(embeddings)
        seed = int(run.rng.integers(2**62))
        parts = np.full((self.n_partitions, len(vectors)), -1, np.min_scalar_type(-self.n_clusters))
        with _side_by_side(vectors.size, run.device) as (pool, n_workers):
            coming: dict[int, Future[Clusters]] = {}
            for number in run.loop(self.n_partitions, name="partitions", parts=parts):
                for ahead in range(number, min(number + n_workers, self.n_partitions)):
                    if ahead not in coming:
                        coming[ahead] = pool.submit(self._accepted, vectors, ahead, seed, run.device)
                found = coming.pop(number).result()
                parts[number] = found.labels
                run.log(inertia=found.inertia / len(vectors), iterations=found.n_iter, large=self._large(found))
        return Partitions(parts, embeddings.ids)

    def _checked(self, embeddings: Embeddings) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        vectors = embeddings.vectors
        if vectors.ndim != 2:
            raise DataError(f"kmeans: found vectors {vectors.shape}; expected (n, e), one vector an image")
        if len(vectors) < self.n_clusters:
            raise DataError(
                f"kmeans: found {len(vectors)} vectors for {self.n_clusters} clusters; expected at least as many vectors "
                "as clusters (lower n_clusters)"
            )
        bad = ~np.isfinite(vectors).all(1)
        if bad.any():
            raise DataError(
                f"kmeans: found NaN or infinity in {int(bad.sum())} of {len(vectors)} vectors, first in row "
                f"{int(bad.argmax())}; expected finite numbers (look at the embedder's learning curve)"
            )
        return np.ascontiguousarray(vectors, np.float32)

    def _accepted(
        self, vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]], number: int, seed: int, device: torch.device
    ) -> Clusters:
        best = 0.0
        for attempt in range(self.max_retries + 1):
            rng = numpy_generator(child_seed(seed, number, attempt))
            found = self._tightest(vectors, number, rng, device)
            large = self._large(found)
            if large > self.share:
                return found
            best = max(best, large)
        raise DataError(
            f"kmeans: partition {number}: found at most {best:.1%} of {self.n_clusters} clusters with at least "
            f"{self.min_size} of {len(vectors)} images in {self.max_retries + 1} clusterings; expected more than "
            f"{self.share:.0%} (lower min_size, share or n_clusters, or cluster vectors that are not whitened)"
        )

    def _tightest(
        self,
        vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]],
        number: int,
        rng: np.random.Generator,
        device: torch.device,
    ) -> Clusters:
        rows = torch.tensor(vectors, device=device)
        if self.scaling and number:
            rows *= torch.from_numpy(rng.random(vectors.shape[1]).astype(np.float32)).to(device)
        tries = [cluster(rows, self.n_clusters, rng, self.max_iter) for _ in range(self.n_init)]
        return min(tries, key=lambda clusters: clusters.inertia)

    def _large(self, found: Clusters) -> float:
        """Return the share of clusters with at least `min_size` members."""
        return float((np.bincount(found.labels, minlength=self.n_clusters) >= self.min_size).mean())
