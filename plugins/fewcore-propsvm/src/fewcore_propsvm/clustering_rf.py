"""A random forest trained on the parts of a partition."""

from __future__ import annotations

from dataclasses import dataclass

from fewcore import Embeddings, Partitions, Run, option
from fewcore_propsvm.forest import Forest, fitted_forest
from fewcore_propsvm.rows import parted_rows


@dataclass(frozen=True)
class ClusteringRF:
    """A random forest whose labels are the parts of a partition.

    Source: the baseline of S. Hussein et al.: Lung and pancreatic tumor characterization in the deep learning era, IEEE
    TMI 2019, arXiv:1801.03230. Differs from the paper: the number of trees, which it does not give, is ours.

    Raises:
        DataError: NaN in the vectors, or fewer than two parts.

    """

    trees: int = option(100, "number of trees", low=1)
    partition: int = option(0, "which partition's parts are taken", low=0)

    def learn(self, embeddings: Embeddings, partitions: Partitions, run: Run) -> Forest:
        """Return the predictor of scores (n, k), of vectors (n, e) and a partition (n,) into k parts."""
        found = parted_rows("clustering-rf", embeddings, partitions, self.partition)
        return fitted_forest(embeddings, found.vectors, found.part, found.k, self.trees, run.rng)
