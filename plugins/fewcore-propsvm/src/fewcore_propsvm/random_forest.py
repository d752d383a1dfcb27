"""A random forest trained on the labels: an upper bound for those that see none."""

from __future__ import annotations

from dataclasses import dataclass

from fewcore import Embeddings, ImageSet, Run, option
from fewcore_propsvm.adasyn import oversampled
from fewcore_propsvm.forest import Forest, fitted_forest
from fewcore_propsvm.rows import labelled_rows


@dataclass(frozen=True)
class RandomForest:
    """A random forest on vectors.

    Source: L. Breiman: Random forests, 2001, doi:10.1023/A:1010933404324; scikit-learn's code. Differs from the paper:
    the trees' shares are averaged, and not their votes counted.

    Raises:
        DataError: NaN in the vectors, training images of one class only, or too few for ADASYN.

    """

    trees: int = option(100, "number of trees", low=1)
    adasyn: bool = option(False, "add made-up vectors of the smallest class (training rows only)")

    def learn(self, images: ImageSet, embeddings: Embeddings, run: Run) -> Forest:
        """Return the predictor of scores (n, k), of vectors (n, e) and labels (n,), -1 where unknown."""
        found = labelled_rows("random-forest", images, embeddings)
        vectors, labels = found.vectors, found.labels
        if self.adasyn:
            vectors, labels = oversampled("random-forest", vectors, labels, run.rng)
        return fitted_forest(embeddings, vectors, labels, found.k, self.trees, run.rng)
