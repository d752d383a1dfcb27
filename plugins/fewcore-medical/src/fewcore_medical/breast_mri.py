"""Breast MRI from a folder and a table: the first subtraction volume, cut into the right and the left breast by T1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fewcore import Array, DataError, ImageSet, ImageSpec, Problem, Run, Target, child_seed, numpy_generator, option
from fewcore_medical.breast_finding import SIDES, BreastBox, breast_boxes
from fewcore_medical.breast_table import FINDINGS, PHASES, Study, read_studies
from fewcore_medical.chest_films import set_folder
from fewcore_medical.resampling import resized
from fewcore_medical.volumes import check_ascending, load_volume, volume_files
from fewcore_medical.voxel_grid import UnusableVolume, Volume

MALIGNANT = FINDINGS.index("malignant")
ANSWERS = ("no", "yes")
APART = 0.01
"""How far voxels of two volumes on one grid may lie apart, in millimetres."""


@dataclass(frozen=True)
class BreastMri:
    """Your own dynamic contrast-enhanced MRI of breasts, with a table of findings. The paper's 117 patients are private.

    The folder holds NIfTI files, or a folder of DICOM files for each volume, and a CSV table with a line for each examination:
    `patient`, `t1` (the volume without contrast agent), `subtraction` (the first volume after the injection less that before),
    `right` and `left` (none, benign or malignant; empty: this breast is left out), and perhaps `split` (train, validation,
    test). It is looked for in `path`, else in the folder `breast-mri` under $FEWCORE_DATA, else in that of the user's data folder.

    T1 is only used to find the breasts, by `breast_boxes`: the body is what is bright, in one piece; the midline is where its
    front lies farthest back; a breast is what stands out before the skin of the midline. The patient lies prone, as in
    all breast MRI. Each breast is cut from the subtraction volume, turned so that its axes run to the head, to the back and to
    the left, and resized to depth x size x size voxels, whatever its proportions. 0 to 255 is the range between two
    percentiles of the values in both breasts of the examination.

    Targets: `finding` and `malignant` (no, yes), the set's own. Groups are patients. `geometry["side"]` (n,) is 0 for right and 1 for
    left breasts, `geometry["spacing"]` (n, 3) the size of a voxel in millimetres, d, h, w. Without the column `split` the pipeline's
    `splits` says how patients are dealt.

    Source: G. Maicas, C. Nguyen, F. Motlagh, J. C. Nascimento, G. Carneiro: Unsupervised Task Design to Meta-Train Medical Image
    Classifiers, 2020, arXiv:1907.07816.

    Differs from the paper: it says neither how T1 separates the breasts nor which values become black and white.

    Raises:
        DataError: everything that is wrong with the table and the volumes, at once. Messages name examinations by their line.

    """

    deterministic: ClassVar[bool] = True

    path: str = option("", "folder of the volumes; empty: looked for as said above")
    table: str = option("labels.csv", "the table's name in the folder")
    size: int = option(100, "height and width", unit="voxels", paper="100", low=8, high=512)
    depth: int = option(50, "slices", unit="voxels", paper="50", low=4, high=512)
    spacing: float = option(1.0, "space between points that are averaged to voxels", unit="mm", low=0.05, high=10)
    least_depth: float = option(
        20.0, "how far a breast stands out at least", unit="mm", paper="not given", low=1, high=200
    )
    behind: float = option(
        15.0, "how far behind the breastbone's skin a cut goes", unit="mm", paper="not given", low=0, high=200
    )
    low_percentile: float = option(1.0, "percentile that becomes 0", paper="not given", low=0, high=100)
    high_percentile: float = option(99.9, "percentile that becomes 255", paper="not given", low=0, high=100)

    def __post_init__(self) -> None:
        check_ascending(low_percentile=self.low_percentile, high_percentile=self.high_percentile)

    def sources(self) -> tuple[Path, ...]:
        """Return the table and the files of every volume that is there; what is not, `load` tells."""
        folder = self._folder()
        studies, _ = read_studies(folder / self.table, folder)
        volumes = sorted({getattr(study, phase) for study in studies for phase in PHASES})
        files = [volume_files(path) for path in volumes]
        return (folder / self.table, *(file for some in files for file in some))

    def load(self, run: Run) -> ImageSet:
        """Return the breasts, (n, 1, depth, size, size) uint8, with the targets `finding` and `malignant`."""
        folder = self._folder()
        studies, problems = read_studies(folder / self.table, folder)
        rows = [(study, side) for study in studies for side in SIDES if side in study.findings]
        images = run.zeros((len(rows), 1, self.depth, self.size, self.size), np.uint8)
        spacings = np.zeros((len(rows), 3))
        row = 0
        for study in run.track(studies, name="cut breasts"):
            try:
                for image, spacing in self._breasts(study):
                    images[row, 0], spacings[row] = image, spacing
                    row += 1
            except DataError as error:
                problems += error.problems
        if problems:
            raise DataError(*problems, title=str(folder / self.table))
        return self._image_set(images, spacings, rows)

    def _folder(self) -> Path:
        folder = set_folder(self.path, "breast-mri")
        if not folder.is_dir():
            expected = f"a folder of T1 and subtraction volumes with the table {self.table}"
            raise DataError(Problem("breast-mri", f"no folder {folder}", expected, "set path, or FEWCORE_DATA"))
        return folder

    def _breasts(self, study: Study) -> Iterator[tuple[Array, Array]]:
        """Yield each breast of a study that has a finding, (d, h, w) uint8, with the size of its voxels in millimetres.

        Raises:
            DataError: everything that is wrong with its volumes.

        """
        t1, subtraction = self._volumes(study)
        boxes = breast_boxes(t1.values, t1.spacing, self.least_depth, self.behind)
        found = [boxes[side] for side in study.findings]
        wrong = [box.problem(study.where) for box in found if isinstance(box, UnusableVolume)]
        if wrong:
            raise DataError(*wrong)
        cuts = [(self._cut(subtraction, box), box) for box in found if isinstance(box, BreastBox)]
        low, high = np.percentile([cut for cut, _ in cuts], [self.low_percentile, self.high_percentile]).tolist()
        if not low < high:
            raise DataError(Problem(study.where, "a subtraction of one value in the breasts", "values that differ"))
        for cut, box in cuts:
            spacing = np.array(box.sides) / (self.depth, self.size, self.size)
            yield np.rint(255 * np.clip((cut - low) / (high - low), 0, 1)).astype(np.uint8), spacing

    def _volumes(self, study: Study) -> tuple[Volume, Volume]:
        """Return T1 and subtraction, turned; they lie on one grid."""
        problems: list[Problem] = []
        volumes = []
        for phase in PHASES:
            where = f"{study.where}, {phase}"
            try:
                volume = load_volume(getattr(study, phase), where)
            except DataError as error:
                problems += error.problems
                continue
            if np.ptp(volume.values) == 0:
                problems.append(Problem(where, "a volume of one value", "an image", "export the series again"))
            if not volume.has_sides:
                found, expected = (
                    "a NIfTI header that does not say where left is",
                    "an sform_code or qform_code above 0",
                )
                problems.append(Problem(where, found, expected, "convert the DICOM series again"))
            # Turned before they are compared: T1 and subtraction may have been stored along different axes.
            volumes.append(volume.oriented())
        placed = [volume for volume in volumes if volume.has_sides]
        if len(placed) == len(PHASES) and (differs := _difference(*placed)):
            expected = "both on one grid"
            problems.append(
                Problem(study.where, f"t1 and subtraction of {differs}", expected, "resample one to the other")
            )
        if problems:
            raise DataError(*problems)
        t1, subtraction = volumes
        return t1, subtraction

    def _cut(self, volume: Volume, box: BreastBox) -> Array:
        places = tuple(along * np.arange(n) for along, n in zip(volume.spacing, volume.values.shape, strict=True))
        sizes = (self.depth, self.size, self.size)
        # 0 is where contrast agent changed nothing.
        return resized(volume.values, places, box.low, box.sides, sizes, self.spacing, 0.0)

    def _image_set(self, images: Array, spacings: Array, rows: list[tuple[Study, str]]) -> ImageSet:
        findings = np.array([study.findings[side] for study, side in rows])
        patients = np.unique([study.patient for study, _ in rows], return_inverse=True)[1]
        groups = numpy_generator(child_seed(0, "breast-mri", "groups")).permutation(int(patients.max()) + 1)[patients]
        ids = numpy_generator(child_seed(0, "breast-mri", "ids")).permutation(len(rows))
        of_row = np.array([study.split for study, _ in rows])
        splits = {split: np.sort(ids[of_row == split]) for split in np.unique(of_row).tolist() if split}
        targets = {
            "malignant": Target("class", (findings == MALIGNANT).astype(np.int64), ANSWERS),
            "finding": Target("class", findings, FINDINGS),
        }
        preparation = {
            "images": "subtraction",
            "percentiles": [self.low_percentile, self.high_percentile],
            "least_depth": self.least_depth,
            "behind": self.behind,
        }
        spec = ImageSpec((self.depth, self.size, self.size), 1, (0.0, 255.0), preparation=preparation)
        geometry = {"side": np.array([SIDES.index(side) for _, side in rows]), "spacing": spacings}
        return ImageSet(images, ids, groups, spec, targets, splits, "malignant", geometry)


def _difference(one: Volume, other: Volume) -> str:
    """Return in what the grids of two volumes differ, without their numbers; empty where they do not."""
    if one.values.shape != other.values.shape:
        return "unequal sizes"
    if not np.allclose(one.spacing, other.spacing, rtol=1e-3):
        return "unequal spacing"
    d, h, w = one.values.shape
    corners = np.array([[x, y, z] for x in (0, w - 1) for y in (0, h - 1) for z in (0, d - 1)], float)
    apart = np.abs(one.place_of(corners) - other.place_of(corners)).max()
    return "unequal place or direction" if apart > APART * max(d, h, w) else ""
