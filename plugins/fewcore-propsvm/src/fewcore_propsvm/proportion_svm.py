"""Proportion-SVM: a machine learnt from clusters and the share of positives in each, without a label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from fewcore import Array, Embeddings, Partitions, Run, option
from fewcore_propsvm.alternating import alternating_psvm
from fewcore_propsvm.convex import convex_psvm
from fewcore_propsvm.kernels import kernel_matrix
from fewcore_propsvm.machine import KernelMachine
from fewcore_propsvm.proportions import proportions_of
from fewcore_propsvm.rows import Scaling, parted_rows


@dataclass(frozen=True)
class ProportionSVM:
    """A support vector machine for two classes whose training labels are unknown: it finds labels and machine together,
    so that the share of positives in each bag is near a given one. The bags are the parts of a partition.

    Which column of the scores is which class nobody has said: the learner `orient` says it. Rows in no part are left
    out. The alternating solver minimises, over labels y, w and b,

        1/2 |w|^2 + C sum_i max(0, 1 - y_i f(x_i)) + C_p sum_b |B_b| max(0, |share of positives in b - p_b| - eps).

    Source: S. Hussein, P. Kandel, C. W. Bolan, M. B. Wallace, U. Bagci: Lung and pancreatic tumor characterization in
    the deep learning era: novel supervised and unsupervised learning approaches, IEEE TMI 2019, arXiv:1801.03230; solvers
    of F. X. Yu, D. Liu, S. Kumar, T. Jebara, S.-F. Chang: pSVM for Learning with Label Proportions, ICML 2013,
    arXiv:1306.0886.

    Differs from the paper: its text gives the convex relaxation and its authors used code in which the alternating
    solver is the default, as here. Its proportions (`size`) carry no more than the balance of two clusters; the default
    `soft` says how sure the clustering is. See `alternating_psvm`, `convex_psvm` and `proportions_of` for more.

    Raises:
        DataError: NaN in the vectors, fewer than two parts, or proportions that do not fit the number of parts.

    """

    solver: Literal["alternating", "convex"] = option("alternating", "alter-pSVM with annealing, or conv-pSVM")
    proportions: Literal["soft", "silhouette", "size", "positive-size", "pure"] = option(
        "soft", "share of positives in each part", paper="size"
    )
    C: float = option(1.0, "cost of the machine's errors", low=1e-8)
    C_p: float = option(1.0, "cost of a row too many or too few in a bag; alternating only", low=0)
    eps: float = option(0.0, "deviation of a share that costs nothing", low=0, high=1)
    restarts: int = option(10, "random starts, of which the best is taken; alternating only", paper="10; 20", low=1)
    anneal: bool = option(True, "start each search from a small C, which grows; alternating only")
    kernel: Literal["linear", "rbf"] = option("linear", "kernel")
    gamma: float | None = option(None, "width of the rbf kernel, exp(-gamma |x - z|^2); default one over e", low=0)
    standardise: bool = option(True, "scale features to mean 0 and deviation 1 on the training rows")
    dimensions: int = option(10, "principal components in which `soft` fits its mixture", low=1)
    partition: int = option(0, "which partition's parts are the bags", low=0)

    def learn(self, embeddings: Embeddings, partitions: Partitions, run: Run) -> KernelMachine:
        """Return the predictor of scores (n, 2), of vectors (n, e) and a partition (n,) into bags."""
        found = parted_rows("proportion-svm", embeddings, partitions, self.partition)
        scaling = Scaling.of(found.vectors, self.standardise)
        rows = scaling(found.vectors)
        shares = proportions_of(self.proportions, rows, found.part, found.k, self.dimensions)
        width = self.gamma if self.gamma is not None else 1 / rows.shape[1]
        x = torch.from_numpy(rows).to(run.device)
        coefficients, bias = self._solved(kernel_matrix(x, x, self.kernel, width), found.part, shares, run)
        sides = np.stack([-coefficients, coefficients], 1)
        return KernelMachine.of(embeddings, scaling, rows, sides, np.array([-bias, bias]), self.kernel, width)

    def _solved(self, matrix: torch.Tensor, bag: Array, shares: Array, run: Run) -> tuple[Array, float]:
        """Return the coefficients of the rows, (n,), and the bias."""
        if self.solver == "convex":
            relaxed = convex_psvm(matrix, bag, shares, C=self.C, eps=self.eps, run=run)
            coefficients = relaxed.coefficients.cpu().numpy()
            return coefficients, float(coefficients.sum())
        best = alternating_psvm(
            matrix,
            bag,
            shares,
            C=self.C,
            C_p=self.C_p,
            eps=self.eps,
            restarts=self.restarts,
            anneal=self.anneal,
            run=run,
        )
        return best.machine.beta.cpu().numpy(), best.machine.bias
