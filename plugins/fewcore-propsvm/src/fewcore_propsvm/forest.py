"""A random forest that stores itself as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from fewcore import Array, Arrays, Embeddings, Encoder, ImageSet, Meta, Predictions, Run

TREE = ("children_left", "children_right", "feature", "threshold", "value")
LEAF = -1


class Forest:
    """The mean over trees of the class shares in the leaf that an image reaches.

    The nodes of all trees stand one after another: `roots` (t,) are the first nodes, `children_left`, `children_right`
    (-1 in a leaf), `feature` and `threshold` (nodes,), `value` (nodes, k).
    """

    def __init__(self, encoder: Encoder, arrays: Mapping[str, Array]) -> None:
        self._encoder = encoder
        self._arrays = {name: np.asarray(arrays[name]) for name in ("roots", *TREE)}

    def probabilities(self, vectors: Array) -> Array:
        """Return class probabilities (n, k) of vectors (n, e), equal to those of scikit-learn."""
        left, right, feature, threshold, value = (self._arrays[name] for name in TREE)
        x = np.asarray(vectors, np.float32)  # as scikit-learn compares
        at = np.tile(self._arrays["roots"], (len(x), 1))
        while True:
            inner = left[at] != LEAF
            if not inner.any():
                break
            rows, trees = np.nonzero(inner)
            node = at[rows, trees]
            lower = x[rows, feature[node]] <= threshold[node]
            at[rows, trees] = np.where(lower, left[node], right[node])
        total = np.zeros((len(x), value.shape[1]))
        for tree in range(at.shape[1]):
            total += value[at[:, tree]]
        return np.asarray(total / at.shape[1])

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return scores (n, k), which are probabilities."""
        return Predictions(images.ids, scores=self.probabilities(self._encoder.embed(images, run)))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the nodes of all trees; the encoder stays where it is."""
        return dict(self._arrays), {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Forest:
        """Build the forest on the encoder that the stage was given."""
        return cls(inputs["embeddings"].encoder, arrays)


def forest_arrays(forest: RandomForestClassifier, k: int) -> Arrays:
    """Return the nodes of a fitted forest's trees, with k columns of class shares."""
    trees = [tree.tree_ for tree in forest.estimators_]
    roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
    found: Arrays = {"roots": roots}
    for name in TREE:
        columns = [np.asarray(getattr(tree, name)) for tree in trees]
        if name.startswith("children"):
            columns = [np.where(c == LEAF, LEAF, c + root) for c, root in zip(columns, roots, strict=True)]
        if name == "value":
            shares = np.concatenate(columns)[:, 0]
            shares = shares / shares.sum(1, keepdims=True)
            columns = [np.zeros((len(shares), k))]
            columns[0][:, forest.classes_] = shares
        found[name] = np.concatenate(columns)
    return found


def fitted_forest(
    embeddings: Embeddings, vectors: Array, labels: Array, k: int, trees: int, rng: np.random.Generator
) -> Forest:
    """Return a forest of so many trees for vectors (n, e) and labels (n,) from 0 to k - 1."""
    forest = RandomForestClassifier(trees, random_state=int(rng.integers(2**31)), n_jobs=1).fit(vectors, labels)
    return Forest(embeddings.encoder, forest_arrays(forest, k))
