"""Phantoms of chest radiographs, made on the fly: healthy, with infiltrates, or with nodules, and their lungs' masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fewcore import Array, ImageSet, ImageSpec, Run, Target, child_seed, numpy_generator, option
from fewcore_medical.phantom_anatomy import PATIENT, chest, draw, posed
from fewcore_medical.phantom_film import collimated, exposures, lesions, radiographs

CLASSES = ("normal", "tuberculosis", "nodule")
STRUCTURES = ("lungs",)
CHUNK_PIXELS = 2**18
"""Pixels that are painted together, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class PhantomChest:
    """Phantoms of chest radiographs: grey images with exact masks of the lungs, in three classes of equal size.

    Each patient has lungs, ribs behind and in front, clavicles, spine, heart, aortic arch and diaphragm of his own, and
    one to `films` images, which differ in pose, breath, exposure, contrast, noise and collimation. `normal` shows vessels
    alone, some of them end-on, small and round. `nodule` adds one to three soft discs anywhere in the lungs, `tuberculosis` three
    to six patchy clouds, mostly high up. What a class adds is denser than the ribs that cross it. In all classes smooth
    opacities may hide a part of the lungs' edges, where only the shape of lungs tells how the mask goes on. Shape and pose are
    drawn without looking at the class, so that masks tell nothing of it.

    Targets: `class`, and `mask` (n, 1, h, w) of 0 and 1: pixels whose middle lies in a lung, without heart, mediastinum and
    what the collimator hides. Groups are patients. The images are the same for every seed of a pipeline, so that models of
    several seeds are judged on the same ones; another `draw` gives others.

    Made for trials of methods that learn to segment and classify, such as A. A. Z. Imran et al.: Partly Supervised
    Multitask Learning, 2020, arXiv:2005.02523. No film was looked at in making it: what holds here need not hold there.
    """

    deterministic: ClassVar[bool] = True

    n_train: int = option(600, "images for training", low=3)
    n_validation: int = option(60, "images for validation", low=0)
    n_test: int = option(240, "images for test", low=0)
    image_size: int = option(128, "height and width", unit="pixels", paper="128", low=16, high=2048)
    films: int = option(2, "most films of a patient", low=1, high=20)
    draw: int = option(0, "which phantoms are drawn: another number gives others", low=0)

    def load(self, run: Run) -> ImageSet:
        """Return the images, (n, 1, image_size, image_size) uint8, with the targets `class` and `mask`."""
        rng = numpy_generator(child_seed(self.draw, "phantom-chest"))
        counts = {"train": self.n_train, "validation": self.n_validation, "test": self.n_test}
        counts = {split: count for split, count in counts.items() if count}
        classes, patients = _dealt(tuple(counts.values()), self.films, rng)
        images, masks = self._painted(classes, patients, rng, run)
        n = len(classes)
        ids = rng.permutation(n)
        # A patient's number in the order of making would tell split and class.
        groups = rng.permutation(n)[patients]
        cuts = np.cumsum(list(counts.values()))[:-1]
        splits = {split: np.sort(rows) for split, rows in zip(counts, np.split(ids, cuts), strict=True)}
        targets = {"class": Target("class", classes, CLASSES), "mask": Target("masks", masks, STRUCTURES)}
        spec = ImageSpec((self.image_size,) * 2, 1, (0, 255), preparation={"grey": True})
        return ImageSet(images, ids, groups, spec, targets, splits, "class")

    def _painted(self, classes: Array, patients: Array, rng: np.random.Generator, run: Run) -> tuple[Array, Array]:
        """Return images (n, 1, h, w) uint8 and masks (n, 1, h, w) float32."""
        n, size = len(classes), self.image_size
        film = posed(draw(PATIENT, int(patients.max()) + 1, rng), patients, rng)
        exposure = exposures(n, rng)
        found = lesions(film, classes, rng)
        images, masks = (run.zeros((n, 1, size, size), dtype) for dtype in (np.uint8, np.float32))
        step = max(1, CHUNK_PIXELS // size**2)
        for start in run.track(range(0, n, step), name="paint phantoms"):
            rows = slice(start, start + step)
            here = chest({name: values[rows] for name, values in film.items()}, size)
            shown = {name: values[rows] for name, values in exposure.items()}
            seen = collimated(shown, size)
            images[rows, 0] = np.rint(255 * seen * radiographs(here, shown, found[rows], size, rng))
            masks[rows, 0] = seen & (here.lungs > 0)
        return images, masks


def _dealt(counts: tuple[int, ...], films: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return class and patient of each image, (n,) each, split by split and class by class.

    Classes are of equal size in each split, but for what is left over; a patient has one class and stands in one split.
    """
    classes, patients = [], []
    first = 0
    for count in counts:
        for number in range(len(CLASSES)):
            n = count // len(CLASSES) + (number < count % len(CLASSES))
            # Every patient has a film at least, so n of them suffice.
            of_film = np.repeat(np.arange(n), rng.integers(1, films + 1, n))[:n]
            classes.append(np.full(n, number, np.int64))
            patients.append(first + of_film)
            first += int(of_film.max(initial=-1)) + 1
    return np.concatenate(classes), np.concatenate(patients)
