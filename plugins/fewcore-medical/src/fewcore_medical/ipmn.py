"""T2 volumes of the pancreas, with and without intraductal papillary mucinous neoplasms, from a folder and a table."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from platformdirs import user_data_path

from fewcore import Array, DataError, ImageSet, ImageSpec, Problem, Run, Target, child_seed, numpy_generator, option
from fewcore_medical.label_table import LabelRow, read_table
from fewcore_medical.mri import smoothed, without_bias
from fewcore_medical.resampling import Cube, resampled
from fewcore_medical.volumes import check_ascending, load_volume, volume_files
from fewcore_medical.voxel_grid import Volume

CLASSES = ("normal", "ipmn")
STABLE = 0.0625
"""Largest time step with which diffusion in three dimensions is stable: 0.5 / 2 ** 3."""


@dataclass(frozen=True)
class Ipmn:
    """Your own T2 volumes of the pancreas with a table of labels: normal, or with IPMN. The paper's 171 are private.

    The folder holds NIfTI files, or a folder of DICOM files for each volume, and a CSV table with the columns `file`,
    `label` (normal or ipmn, 0 or 1) and `patient`, and perhaps the region of interest: `x0`, `x1`, `y0`, `y1`, `z0`, `z1`
    in voxels of the file (columns, rows, slices; the first, and the one after the last). It is looked for in `path`,
    else in the folder `ipmn` under $FEWCORE_DATA, else in that of the user's data folder.

    Each volume is corrected for its bias field (N4), smoothed by curvature anisotropic diffusion, turned so that its axes
    run left, back and up, and cut: `slice` takes the middle slice of the region, a square as wide as its longer side;
    `volume` a cube around it. Without a region the whole volume counts. 0 to 255 is the range between two percentiles of
    the volume's own values. The class target is `ipmn`, groups are patients. `geometry["spacing"]` (n, 3) is the size of
    a voxel in millimetres, d, h, w.

    Source: S. Hussein, P. Kandel, C. W. Bolan, M. B. Wallace, U. Bagci: Lung and Pancreatic Tumor Characterization in
    the Deep Learning Era: Novel Supervised and Unsupervised Learning Approaches, IEEE Transactions on Medical Imaging
    38, 2019, arXiv:1801.03230.

    Differs from the paper: it gives neither the parameters of N4 and diffusion, for which ITK's defaults stand, nor the
    rule for the slice, nor the range of values.

    Raises:
        DataError: everything that is wrong with the table and the volumes, at once. Messages name rows by their line.

    """

    deterministic: ClassVar[bool] = True

    path: str = option("", "folder of the volumes; empty: looked for as said above")
    table: str = option("labels.csv", "the table's name in the folder")
    crop: Literal["slice", "volume"] = option("slice", "the middle slice of the region, or all of it")
    size: int = option(128, "pixels a side", low=4, high=512)
    margin: float = option(1.0, "side of the cut in longer sides of the region", low=1, high=10)
    spacing: float = option(0.5, "space between points that are averaged to voxels", unit="mm", low=0.05, high=10)
    bias_iterations: int = option(50, "iterations of N4 at each level; 0: no correction", paper="not given", low=0)
    bias_levels: int = option(4, "levels of N4", paper="not given", low=1, high=8)
    bias_shrink: int = option(4, "how much smaller the volume is in which N4 fits", paper="not given", low=1, high=16)
    diffusion_iterations: int = option(5, "steps of diffusion; 0: none", paper="not given", low=0)
    conductance: float = option(3.0, "which edges stay: more smooths more", paper="not given", low=0.01, high=100)
    time_step: float = option(STABLE, "step of diffusion; larger ones are unstable", low=0.0001, high=STABLE)
    low_percentile: float = option(1.0, "percentile of a volume that becomes 0", low=0, high=100)
    high_percentile: float = option(99.0, "percentile of a volume that becomes 255", low=0, high=100)

    def __post_init__(self) -> None:
        check_ascending(low_percentile=self.low_percentile, high_percentile=self.high_percentile)

    def sources(self) -> tuple[Path, ...]:
        """Return the table and the files of every volume."""
        folder = self._folder()
        rows = read_table(folder / self.table, folder, CLASSES)
        files = [volume_files(row.path) for row in rows]
        return (folder / self.table, *(file for some in files for file in some))

    def load(self, run: Run) -> ImageSet:
        """Return the cuts, (n, 1, size, size) or (n, 1, size, size, size) uint8."""
        folder = self._folder()
        rows = read_table(folder / self.table, folder, CLASSES)
        problems: list[Problem] = []
        images, spacings = [], []
        for row in run.track(rows, name="prepare volumes"):
            try:
                image, spacing = self._prepared(row)
            except DataError as error:
                problems += error.problems
                continue
            images.append(image)
            spacings.append(spacing)
        if problems:
            raise DataError(*problems, title="ipmn")
        return self._image_set(np.stack(images)[:, None], np.array(spacings), rows)

    def prepare(self, path: Path) -> Array:
        """Return the cut of a new volume, (1, size, size) or (1, size, size, size) uint8: of the whole, as no region is known.

        Raises:
            DataError: it is no volume that can be used.

        """
        return self._prepared(LabelRow(path, 0, "", None, path.name))[0][None]

    def _folder(self) -> Path:
        if self.path:
            folder = Path(self.path).expanduser()
        else:
            home = os.environ.get("FEWCORE_DATA", "")
            folder = (Path(home).expanduser() if home else user_data_path("fewcore")) / "ipmn"
        if not folder.is_dir():
            expected = f"a folder of T2 volumes with the table {self.table} (columns file, label, patient)"
            raise DataError(Problem("ipmn", f"no folder {folder}", expected, "set path, or FEWCORE_DATA"))
        return folder

    def _prepared(self, row: LabelRow) -> tuple[Array, tuple[float, float, float]]:
        volume = load_volume(row.path, row.where)
        box = _checked_box(volume, row)
        values = volume.values
        if np.ptp(values) == 0:
            raise DataError(Problem(row.where, "a volume of one value", "an image"))
        if self.bias_iterations:
            values = without_bias(values, volume.spacing, self.bias_shrink, self.bias_levels, self.bias_iterations)
        if self.diffusion_iterations:
            values = smoothed(values, self.diffusion_iterations, self.conductance, self.time_step)
        low, high = np.percentile(values, [self.low_percentile, self.high_percentile]).tolist()
        if not (np.isfinite([low, high]).all() and low < high):
            expected = "an image whose values differ"
            raise DataError(Problem(row.where, "equal values at both percentiles", expected, "set others"))
        turned = replace(volume, values=values).oriented()
        cut, spacing = self._cut(turned, _turned_box(volume, turned, box), low)
        return np.round(255 * np.clip((cut - low) / (high - low), 0, 1)).astype(np.uint8), spacing

    def _cut(self, volume: Volume, box: Array, outside: float) -> tuple[Array, tuple[float, float, float]]:
        """Return the cut of a region (3, 2) z, y, x in voxels, and the size of its voxels."""
        places = tuple(along * np.arange(side) for along, side in zip(volume.spacing, volume.values.shape, strict=True))
        # A voxel's value stands at its middle, half a voxel behind its edge.
        edges = (box - 0.5) * np.array(volume.spacing)[:, None]
        centre, sides = edges.mean(1), np.ptp(edges, axis=1)
        values = volume.values
        if self.crop == "slice":
            values, places = values[int(box[0].sum() - 1) // 2], places[1:]
            centre, sides = centre[1:], sides[1:]
        side = self.margin * float(sides.max())
        cube = Cube(tuple((centre - side / 2).tolist()), side)
        pixel = side / self.size
        depth = volume.spacing[0] if self.crop == "slice" else pixel
        return resampled(values, places, cube, self.size, self.spacing, outside), (depth, pixel, pixel)

    def _image_set(self, images: Array, spacings: Array, rows: list[LabelRow]) -> ImageSet:
        n, dims = len(images), images.ndim - 2
        preparation: dict[str, Any] = {
            "crop": self.crop,
            "n4": {"iterations": self.bias_iterations, "levels": self.bias_levels, "shrink": self.bias_shrink},
            "diffusion": {
                "iterations": self.diffusion_iterations,
                "conductance": self.conductance,
                "time_step": self.time_step,
            },
            "percentiles": [self.low_percentile, self.high_percentile],
        }
        fixed = np.ptp(spacings[:, -dims:], axis=0).max() < 1e-9
        spacing = tuple(spacings[0, -dims:].tolist()) if fixed else None
        spec = ImageSpec((self.size,) * dims, 1, (0.0, 255.0), spacing, preparation)
        patients = np.unique([row.patient for row in rows], return_inverse=True)[1]
        groups = numpy_generator(child_seed(0, "ipmn", "groups")).permutation(int(patients.max()) + 1)[patients]
        ids = numpy_generator(child_seed(0, "ipmn", "ids")).permutation(n)
        target = Target("class", np.array([row.label for row in rows]), CLASSES)
        return ImageSet(images, ids, groups, spec, {"ipmn": target}, target="ipmn", geometry={"spacing": spacings})


def _checked_box(volume: Volume, row: LabelRow) -> Array:
    """Return the region (3, 2) x, y, z in voxels of the file; the whole volume where none is said."""
    sides = np.array(volume.values.shape[::-1])
    if row.box is None:
        return np.column_stack([np.zeros(3, np.int64), sides])
    if (row.box[:, 1] > sides).any():
        raise DataError(Problem(row.where, "a region that reaches out of its volume", "voxels of the file, from 0"))
    return row.box


def _turned_box(volume: Volume, turned: Volume, box: Array) -> Array:
    """Return a region of a volume as z, y, x (3, 2) in voxels of the volume after it was turned."""
    corners = turned.index_of(volume.place_of(np.stack([box[:, 0], box[:, 1] - 1])))
    whole = np.round(corners).astype(np.int64)
    return np.stack([whole.min(0), whole.max(0) + 1], axis=1)[::-1]
