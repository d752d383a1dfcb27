"""The constant predictor: what every regression must beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fewcore import Array, Arrays, DataError, ImageSet, Meta, Predictions, Run, option
from fewcore_graphmtl.ratings import mean_ratings, ratings_of


class ConstantRating:
    """One number for all images."""

    def __init__(self, name: str, level: float) -> None:
        self.name = name
        self.level = level

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return values (n, 1) float64."""
        return Predictions(images.ids, values=np.full((len(images), 1), self.level), value_names=(self.name,))

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return the number."""
        return {"level": np.array([self.level])}, {"name": self.name}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> ConstantRating:
        """Build the predictor."""
        return cls(meta["name"], float(arrays["level"][0]))


@dataclass(frozen=True)
class Constant:
    """The mean score of the training images for every image. An image's score is the mean over its readers.

    A window of one point on a scale of five is generous; this says how generous.

    Source: none; S. Hussein et al., IEEE TMI 38, 2019, arXiv:1801.03230, print no such row.

    Raises:
        DataError: there are no ratings of the attribute.

    """

    deterministic: ClassVar[bool] = True

    attribute: str = option("malignancy", "the rated attribute to predict")

    def learn(self, images: ImageSet, run: Run) -> ConstantRating:
        """Return the predictor."""
        _, scores = mean_ratings(ratings_of(images, self.attribute, "constant"), self.attribute)
        known = scores[~np.isnan(scores)]
        if not len(known):
            raise DataError(
                f"constant: found no rating of '{self.attribute}' in {len(images)} training images; expected at least one"
            )
        return ConstantRating(self.attribute, float(known.mean()))
