"""ADASYN: new vectors of the smallest class, between its own, more where it is hard to tell."""

from __future__ import annotations

import numpy as np
from imblearn.over_sampling import ADASYN  # type: ignore[import-untyped]

from fewcore import Array, DataError


def oversampled(name: str, vectors: Array, labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return vectors (m, e) and labels (m,) with vectors of the smallest class added until it is about as large as the largest.

    Classes of equal size are returned as they are. Source: H. He, Y. Bai, E. A. Garcia, S. Li: ADASYN, IJCNN 2008,
    doi:10.1109/IJCNN.2008.4633969; imbalanced-learn's code, 5 neighbours.

    Raises:
        DataError: the smallest class has too few images, or none of them has a neighbour of another class.

    """
    seed = int(rng.integers(2**31))
    counts = np.bincount(labels)
    present = counts[counts > 0]
    if present.min() == present.max():
        return vectors, labels
    method = ADASYN(sampling_strategy="minority", random_state=seed)
    try:
        made, kinds = method.fit_resample(vectors, labels)
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"{name}: found that ADASYN cannot be done with {int(present.min())} images of the smallest of "
            f"{len(present)} classes ({len(labels)} in all): {str(error).splitlines()[0]} Expected at least six, some near "
            "the others (adasyn: false)"
        ) from error
    return np.asarray(made), np.asarray(kinds)
