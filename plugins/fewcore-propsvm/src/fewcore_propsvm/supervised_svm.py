"""A support vector machine trained on the labels: an upper bound for those that see none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fewcore import Embeddings, ImageSet, Run, option
from fewcore_propsvm.adasyn import oversampled
from fewcore_propsvm.machine import KernelMachine, fitted_machine
from fewcore_propsvm.rows import labelled_rows


@dataclass(frozen=True)
class SupervisedSVM:
    """A support vector machine on vectors; of more than two classes, each against the rest.

    Source: C. Cortes, V. Vapnik: Support-vector networks, 1995, doi:10.1007/BF00994018. Differs from the paper: solved by
    an active set.

    Raises:
        DataError: NaN in the vectors, training images of one class only, or too few for ADASYN.

    """

    C: float = option(1.0, "cost of the machine's errors", low=1e-8)
    kernel: Literal["linear", "rbf"] = option("linear", "kernel")
    gamma: float | None = option(None, "width of the rbf kernel, exp(-gamma |x - z|^2); default one over e", low=0)
    standardise: bool = option(True, "scale features to mean 0 and deviation 1 on the training rows")
    adasyn: bool = option(False, "add made-up vectors of the smallest class (training rows only)")

    def learn(self, images: ImageSet, embeddings: Embeddings, run: Run) -> KernelMachine:
        """Return the predictor of scores (n, k), of vectors (n, e) and labels (n,), -1 where unknown."""
        found = labelled_rows("svm", images, embeddings)
        vectors, labels = found.vectors, found.labels
        if self.adasyn:
            vectors, labels = oversampled("svm", vectors, labels, run.rng)
        return fitted_machine(self, embeddings, vectors, labels, found.k, run.device)
