"""The images of a table while they are read, and the set that they become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fewcore import Array, ImageSet, ImageSpec, Run, Target, child_seed, numpy_generator
from fewcore.builtin.films import Box
from fewcore.builtin.splitting import Shares, dealt
from fewcore.builtin.table_rows import Row

if TYPE_CHECKING:
    from fewcore.builtin.folder import Folder


@dataclass(frozen=True)
class Cut:
    """One image that is made: the row that says its class, the box that is cut out (None: all), the object's value."""

    row: Row
    label: int
    box: Box | None = None
    value: int | None = None


@dataclass(frozen=True)
class Film:
    """An image's file with its mask's, and what is cut out of it, at the rows from `start` of the set."""

    image: str
    mask: str
    where: str
    cuts: tuple[Cut, ...]
    start: int = 0


@dataclass(frozen=True, eq=False)
class FilmSet:
    """The arrays of a set while they are filled, and the films that fill them.

    `boxes` (n, 4) are left, upper, right and lower edge of what was cut out, in pixels of the file; `sizes` (n, 2) the
    height and width of the file.
    """

    films: list[Film]
    images: Array
    masks: Array | None
    sizes: Array
    boxes: Array

    @classmethod
    def empty(cls, found: list[Film], options: Folder, dtype: type[Any], run: Run) -> FilmSet:
        """Return arrays of zeros."""
        starts = np.cumsum([0, *(len(film.cuts) for film in found)]).tolist()
        placed = [replace(film, start=start) for film, start in zip(found, starts, strict=False)]
        n, side = starts[-1], (options.image_size,) * 2
        images = run.zeros((n, 1 if options.grey else 3, *side), dtype)
        masks = run.zeros((n, len(options.structures), *side), np.float32) if options.mask_column else None
        return cls(placed, images, masks, np.zeros((n, 2), np.int64), np.zeros((n, 4), np.int64))

    @property
    def labels(self) -> Array:
        """The class of each image, (n,), -1 where unknown."""
        return np.array([cut.label for film in self.films for cut in film.cuts], np.int64)

    def as_set(self, names: tuple[str, ...], options: Folder) -> ImageSet:
        """Return the set; its ids and groups say nothing of the table's order.

        Raises:
            DataError: a split comes out empty.

        """
        cuts = [(film, cut) for film in self.films for cut in film.cuts]
        units = [cut.row.patient if options.patient_column else film.image for film, cut in cuts]
        groups = np.unique(units, return_inverse=True)[1]
        n, labels = len(cuts), self.labels
        shares = Shares(options.split_by, options.validation_share, options.test_share)
        rows = dealt(labels, len(names), groups, shares)
        ids = numpy_generator(child_seed(0, "folder", "ids", n)).permutation(n)
        groups = numpy_generator(child_seed(0, "folder", "groups", n)).permutation(n)[groups]
        targets = {"class": Target("class", labels, names)} if options.class_column else {}
        if self.masks is not None:
            targets["mask"] = Target("masks", self.masks, options.structures)
        geometry = {"size": self.sizes} | ({"box": self.boxes} if options.per_object else {})
        splits = {name: np.sort(ids[chosen]) for name, chosen in rows.items()}
        spec = _spec(self.images, options)
        target = "class" if options.class_column else ""
        return ImageSet(self.images, ids, groups, spec, targets, splits, target, geometry)


def _spec(images: Array, options: Folder) -> ImageSpec:
    how: dict[str, Any] = {"grey": options.grey, "fit": options.fit, "bits": options.bits}
    how |= {"max_pixels": options.max_pixels, "window": list(options.window)}
    how |= {"per_object": options.per_object, "margin": options.margin} if options.per_object else {}
    high = 1.0 if images.dtype == np.float32 else 255.0
    return ImageSpec((options.image_size,) * 2, images.shape[1], (0.0, high), preparation=how)
