"""The handwritten digits that scikit-learn ships: a real data set that needs no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fewcore import ImageSet, ImageSpec, Run, Target, numpy_generator

SPLITS = {"train": 1000, "validation": 297, "test": 500}
HIGHEST = 16
SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits of 8 x 8 pixels, grey, in ten classes: 1000 to train, 297 to validate, 500 to test.

    Pixels are uint8: 0 to 16 in the source, times 255 / 16 and rounded. The splits hold different images of the same
    ten classes, in equal shares and always the same; who wrote a digit is not known, so a writer may stand in several
    splits. Test tasks are therefore new images of classes whose images, but not labels, were seen.

    Source: E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
    doi:10.24432/C50P49, its 1,797 test images as scikit-learn ships them.
    """

    deterministic: ClassVar[bool] = True

    def load(self, run: Run) -> ImageSet:
        """Return the digits, (1797, 1, 8, 8) uint8, with the class target `digit`."""
        # Imported here: announcing and describing the component must not wait for scikit-learn.
        from sklearn.datasets import load_digits

        data = load_digits()
        pixels = np.rint(data.images[:, None] * (255 / HIGHEST)).astype(np.uint8)
        classes = data.target.astype(np.int64)
        rng = numpy_generator(SPLIT_SEED)
        ids = rng.permutation(len(classes))
        spec = ImageSpec((8, 8), 1, (0, 255), preparation={"grey": True})
        target = Target("class", classes, tuple(str(name) for name in data.target_names))
        splits = {name: np.sort(ids[rows]) for name, rows in _stratified(classes, rng).items()}
        return ImageSet(pixels, ids, ids.copy(), spec, {"digit": target}, splits, "digit")


def _stratified(classes: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the rows of each split, so that every class has its share of each.

    Rows are sorted by their rank within their class, as a share of the class, and cut: each split is then a stretch of
    every class.
    """
    order = rng.permutation(len(classes))
    rank = np.empty(len(classes))
    for label in np.unique(classes):
        rows = order[classes[order] == label]
        rank[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    rows = np.argsort(rank, kind="stable")
    cuts = np.cumsum(list(SPLITS.values()))[:-1]
    return dict(zip(SPLITS, np.split(rows, cuts), strict=True))
