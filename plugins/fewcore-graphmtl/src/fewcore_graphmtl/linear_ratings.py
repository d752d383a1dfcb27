"""The predictor that all learners of this distribution make: a linear map for each attribute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from fewcore import Array, Arrays, DataError, Encoder, ImageSet, Meta, Predictions, Run
from fewcore_graphmtl.ratings import own_vectors


class LinearRatings:
    """Weights (m, e) and levels (m,) for the attributes `names`, each on its own features among those of the encoder.

    `places` (m,) says which of (n, m', e) they are, -1 for (n, e). `facts` holds what else was found, such as penalties.
    """

    def __init__(
        self,
        encoder: Encoder,
        names: tuple[str, ...],
        weights: Array,
        levels: Array,
        places: Array,
        facts: Mapping[str, Any],
    ) -> None:
        self.names = names
        self.weights = weights
        self.levels = levels
        self.places = places
        self.facts = facts
        self._encoder = encoder

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return values (n, m) float64 with the attributes' names.

        Raises:
            DataError: a vector is not finite.

        """
        vectors = self._encoder.embed(images, run)
        if not np.isfinite(vectors).all():
            raise DataError(
                f"predict: found NaN or infinity in vectors of {len(images)} images; expected finite numbers"
            )
        columns = [
            own_vectors(vectors, int(place)) @ w + level
            for place, w, level in zip(self.places, self.weights, self.levels, strict=True)
        ]
        return Predictions(images.ids, values=np.stack(columns, 1), value_names=self.names)

    def to_arrays(self) -> tuple[Arrays, Meta]:
        """Return weights, levels and places; names and facts as JSON."""
        arrays = {"weights": self.weights, "levels": self.levels, "places": self.places}
        return arrays, {"names": list(self.names), "facts": dict(self.facts)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Meta, inputs: Mapping[str, Any]) -> Self:
        """Build the predictor on the encoder that the stage was given."""
        encoder, names = inputs["embeddings"].encoder, tuple(meta["names"])
        return cls(encoder, names, arrays["weights"], arrays["levels"], arrays["places"], meta["facts"])
