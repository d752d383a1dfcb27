"""Components that break the contract, for the messages about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewcore import Array, ImageSet, MetricReport, Outcome, Predictions, Run, option
from toys.data import ToyPatients
from toys.embedders import Linear
from toys.vectors import Constant


@dataclass(frozen=True)
class Curious:
    """Asks for what nobody makes."""

    def fit(self, pictures: ImageSet, run: Run) -> Linear:
        """Never called."""
        raise NotImplementedError


@dataclass(frozen=True)
class Reader:
    """Reads its weight from a file."""

    file: str = option(..., "the file")

    def sources(self) -> tuple[Path, ...]:
        """Return the file."""
        return (Path(self.file),)

    def fit(self, images: ImageSet, run: Run) -> Linear:
        """Return an encoder with the weight that the file says."""
        weight = float(Path(self.file).read_text())
        return Linear(np.full((images.images[0].size, 2), weight, np.float32))


@dataclass(frozen=True)
class Silent:
    """Does not say what it makes."""

    def fit(self, images: ImageSet, run: Run):  # type: ignore[no-untyped-def]
        """Return something else than an encoder."""
        return 5


@dataclass(frozen=True)
class Liar:
    """Makes something else than it says."""

    def fit(self, images: ImageSet, run: Run) -> Linear:
        """Return something else."""
        return 5  # type: ignore[return-value]


@dataclass(frozen=True)
class Judge:
    """Fails."""

    def evaluate(self, outcomes: tuple[Outcome, ...], run: Run) -> MetricReport:
        """Fail."""
        raise KeyError("verdict")


@dataclass(frozen=True)
class Nothing:
    """Makes numbers that are none."""

    def fit(self, images: ImageSet, run: Run) -> Linear:
        """Return weights that hold NaN."""
        return Linear(np.full((16, 2), np.nan, np.float32))


class Flat(Linear):
    """Gives one number where a vector is expected."""

    def embed(self, images: ImageSet, run: Run) -> Array:
        """Return (n,)."""
        return np.zeros(len(images), np.float32)


@dataclass(frozen=True)
class Short:
    """Its encoder keeps no shape."""

    def fit(self, images: ImageSet, run: Run) -> Flat:
        """Return the encoder."""
        return Flat(np.zeros((16, 2), np.float32))


class Reversed(Constant):
    """Says things in an order of its own."""

    def predict(self, images: ImageSet, run: Run) -> Predictions:
        """Return predictions of the images, the last one first."""
        found = super().predict(images, run)
        return Predictions(found.ids[::-1], scores=found.scores)


@dataclass(frozen=True)
class Backwards:
    """Its predictor turns the images around."""

    def learn(self, images: ImageSet, run: Run) -> Reversed:
        """Return the predictor."""
        return Reversed()


@dataclass(frozen=True)
class Broken:
    """Images with pixels that are no numbers."""

    def load(self, run: Run) -> ImageSet:
        """Return toy patients, two of them broken."""
        found = ToyPatients().load(run)
        found.images[3, 0, 1, 1] = np.nan
        found.images[5, 0, 0, 0] = np.inf
        return found
