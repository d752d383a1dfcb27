"""Says which column of another model's scores is which class, by the training labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from fewcore import Array, Arrays, DataError, ImageSet, Meta, Predictions, Predictor, Run


class Oriented:
    """Another predictor's scores with its columns in the order of the classes: `columns` (k,) are their numbers."""

    def __init__(self, start: Predictor, columns: Array) -> None:
        self._start, self._columns = start, columns

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return scores (n, k)."""
        found = self._start.predict(images, run).scores
        assert found is not None
        return Predictions(images.ids, scores=np.ascontiguousarray(found[:, self._columns]))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the order of the columns; the other predictor stays where it is."""
        return {"columns": self._columns}, {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Oriented:
        """Build the predictor on the one that the stage was given."""
        return cls(inputs["start"], np.asarray(arrays["columns"]))


@dataclass(frozen=True)
class Orient:
    """The order of a model's columns, clusters as a rule, with which most training images get their class.

    Labels enter by this alone: which cluster is which class. Images of unknown class are left out.

    Source: S. Hussein et al.: Lung and pancreatic tumor characterization in the deep learning era, IEEE TMI 2019,
    arXiv:1801.03230, where it is done by hand; H. W. Kuhn: The Hungarian method, 1955, for more than two classes.
    Differs from the paper: the training rows of each fold decide, never those of test.

    Raises:
        DataError: the model makes no scores or has another number of columns than there are classes, or no training
            image has a known class.

    """

    deterministic: ClassVar[bool] = True

    def learn(self, start: Predictor, images: ImageSet, run: Run) -> Oriented:
        """Return the predictor of scores (n, k), of a model and labels (n,), -1 where unknown."""
        k, labels = len(images.class_names), np.asarray(images.labels)
        rows = np.flatnonzero(labels >= 0)
        if not len(rows):
            raise DataError("orient: found no training image of a known class; expected at least one")
        blind = replace(images, targets={}, splits={})
        scores = start.predict(blind, run).scores
        if scores is None or scores.ndim != 2 or scores.shape[1] != k:
            shape = "none" if scores is None else f"{scores.shape}"
            raise DataError(
                f"orient: found scores {shape} of the model to orient; expected (n, {k}), a column for each class "
                f"(n_clusters: {k} in the partitioner)"
            )
        together = np.zeros((k, k), np.int64)
        np.add.at(together, (labels[rows], scores[rows].argmax(1)), 1)
        return Oriented(start, linear_sum_assignment(together, maximize=True)[1])
