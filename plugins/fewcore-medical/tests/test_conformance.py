from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from breasts_made import write_breasts
from chest_layouts import write_chest, write_jsrt, write_montgomery, write_shenzhen
from pylidc_database import Database

from fewcore.testing import conformance


def small_lidc(folder: Path) -> dict[str, Any]:
    """Write two scans of six nodules, each drawn by three readers, as pylidc stores them; returns the options."""
    written = Database(folder / "annotations.sqlite")
    for number in (1, 2):
        scan = written.scan(f"series {number}", f"patient {number}")
        for nodule in range(6):
            for reader in range(3):
                ratings = (1 + (nodule + reader) % 5, 6, 1, 2, 3, 4, 5)
                low, high = 40 * nodule, 40 * nodule + 6 + reader
                square = [(low, 20), (high, 20), (high, 27), (low, 27)]
                written.reading(scan, ratings, dict.fromkeys((3, 4, 5), square))
    written.connection.close()
    return {"annotations": str(written.path), "size": 16}


def small_ipmn(folder: Path) -> dict[str, Any]:
    """Write four volumes with a table; returns the options that read them."""
    rng = np.random.default_rng(0)
    lines = ["file,label,patient"]
    for i in range(4):
        values = np.pad(100 + rng.random((6, 10, 10), np.float32), 3)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 2.0, 1.0])), folder / f"{i}.nii")
        lines.append(f"{i}.nii,{i % 2},{i}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return {"path": str(folder), "size": 8, "bias_iterations": 2, "bias_levels": 1}


OPTIONS = {
    "breast-mri": write_breasts,
    "chest": write_chest,
    "ipmn": small_ipmn,
    "jsrt": write_jsrt,
    "lidc": small_lidc,
    "monai": {"model": "resnet10"},
    "montgomery": write_montgomery,
    "phantom-breast": {"n_train": 4, "n_validation": 2, "n_test": 2, "size": 16, "depth": 8},
    "phantom-chest": {"n_train": 9, "n_validation": 3, "n_test": 3, "image_size": 16},
    "shape": {"dimensions": 2},
    "shenzhen": write_shenzhen,
}


@conformance("fewcore-medical", options=OPTIONS, shapes={"monai": (1, 32, 32)})
def test_conformance(offer, check):
    check(offer)
