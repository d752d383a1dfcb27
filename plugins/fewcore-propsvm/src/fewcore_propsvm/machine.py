"""What the support vector machines of this plugin predict with: weights, or support vectors and a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
import torch

from fewcore import Array, Arrays, Embeddings, Encoder, ImageSet, Meta, Predictions, Run
from fewcore_propsvm.kernels import Kernel, kernel_matrix
from fewcore_propsvm.rows import Scaling
from fewcore_propsvm.svm import SVM

BLOCK = 4096


class KernelMachine:
    """Scores f_c(x) = sum_i coefficients_ic K(x_i, x) + bias_c of scaled vectors.

    With a linear kernel there are no `rows`, and `coefficients` (e, k) are the weights. A machine for two classes has the
    columns -f and f.
    """

    def __init__(
        self,
        encoder: Encoder,
        scaling: Scaling,
        rows: Array,
        coefficients: Array,
        bias: Array,
        kernel: Kernel,
        gamma: float,
    ) -> None:
        self._encoder, self._scaling = encoder, scaling
        self._rows, self._coefficients, self._bias = rows, coefficients, bias
        self._kernel: Kernel = kernel
        self._gamma = gamma

    @classmethod
    def of(
        cls,
        embeddings: Embeddings,
        scaling: Scaling,
        rows: Array,
        coefficients: Array,
        bias: Array,
        kernel: Kernel,
        gamma: float,
    ) -> Self:
        """Build the machine from the coefficients (n, k) of the scaled training rows (n, e): only those that matter stay."""
        if kernel == "linear":
            return cls(embeddings.encoder, scaling, np.empty((0, 0)), rows.T @ coefficients, bias, kernel, gamma)
        kept = (coefficients != 0).any(1)
        return cls(embeddings.encoder, scaling, rows[kept], coefficients[kept], bias, kernel, gamma)

    def scores(self, vectors: Array, device: torch.device) -> Array:
        """Return scores (n, k) float64 of vectors (n, e)."""
        x = torch.from_numpy(self._scaling(vectors)).to(device)
        coefficients = torch.tensor(self._coefficients, device=device)
        if self._kernel == "linear":
            found = x @ coefficients
        else:
            rows = torch.tensor(self._rows, device=device)
            parts = [
                kernel_matrix(part, rows, self._kernel, self._gamma) @ coefficients for part in torch.split(x, BLOCK)
            ]
            found = torch.cat(parts) if parts else x.new_zeros(0, coefficients.shape[1])
        return np.asarray((found + torch.tensor(self._bias, device=device)).cpu().numpy())

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return scores (n, k)."""
        return Predictions(images.ids, scores=self.scores(self._encoder.embed(images, run), run.device))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return coefficients, support vectors, bias and scaling; the encoder stays where it is."""
        own: Arrays = {"rows": self._rows, "coefficients": self._coefficients, "bias": self._bias}
        return own | self._scaling.arrays, {"kernel": self._kernel, "gamma": self._gamma}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Self:
        """Build the machine on the encoder that the stage was given."""
        scaling = Scaling.from_arrays(arrays)
        rows, coefficients, bias = (np.asarray(arrays[name]) for name in ("rows", "coefficients", "bias"))
        encoder = inputs["embeddings"].encoder
        return cls(encoder, scaling, rows, coefficients, bias, meta["kernel"], meta["gamma"])


class _MachineOptions(Protocol):
    """The options that the machines trained on given classes have in common."""

    @property
    def C(self) -> float: ...
    @property
    def kernel(self) -> Kernel: ...
    @property
    def gamma(self) -> float | None: ...
    @property
    def standardise(self) -> bool: ...


def fitted_machine(
    options: _MachineOptions, embeddings: Embeddings, vectors: Array, labels: Array, k: int, device: torch.device
) -> KernelMachine:
    """Return the machine for vectors (n, e) and labels (n,) from 0 to k - 1: each class against the rest.

    A class without a row gets the score -1 everywhere. `gamma` None is one over e.
    """
    scaling = Scaling.of(vectors, options.standardise)
    rows = scaling(vectors)
    width = options.gamma if options.gamma is not None else 1 / rows.shape[1]
    x = torch.from_numpy(rows).to(device)
    solver = SVM(kernel_matrix(x, x, options.kernel, width))
    coefficients, bias = np.zeros((len(rows), k)), np.zeros(k)
    for c in (1,) if k == 2 else range(k):
        signs = torch.from_numpy(np.where(labels == c, 1.0, -1.0)).to(device)
        found = solver.solve(signs, options.C)
        coefficients[:, c], bias[c] = found.beta.cpu().numpy(), found.bias
    if k == 2:
        coefficients[:, 0], bias[0] = -coefficients[:, 1], -bias[1]
    return KernelMachine.of(embeddings, scaling, rows, coefficients, bias, options.kernel, width)
