"""A support vector machine trained on the parts of a partition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fewcore import Embeddings, Partitions, Run, option
from fewcore_propsvm.machine import KernelMachine, fitted_machine
from fewcore_propsvm.rows import parted_rows


@dataclass(frozen=True)
class ClusteringSVM:
    """A support vector machine whose labels are the parts of a partition; of more than two parts, each against the rest.

    Source: the baseline of S. Hussein et al.: Lung and pancreatic tumor characterization in the deep learning era, IEEE
    TMI 2019, arXiv:1801.03230. Differs from the paper: C and the scaling, which it does not give, are ours.

    Raises:
        DataError: NaN in the vectors, or fewer than two parts.

    """

    deterministic: ClassVar[bool] = True

    C: float = option(1.0, "cost of the machine's errors", low=1e-8)
    kernel: Literal["linear", "rbf"] = option("linear", "kernel")
    gamma: float | None = option(None, "width of the rbf kernel, exp(-gamma |x - z|^2); default one over e", low=0)
    standardise: bool = option(True, "scale features to mean 0 and deviation 1 on the training rows")
    partition: int = option(0, "which partition's parts are taken", low=0)

    def learn(self, embeddings: Embeddings, partitions: Partitions, run: Run) -> KernelMachine:
        """Return the predictor of scores (n, k), of vectors (n, e) and a partition (n,) into k parts."""
        found = parted_rows("clustering-svm", embeddings, partitions, self.partition)
        return fitted_machine(self, embeddings, found.vectors, found.part, found.k, run.device)
