"""Breast MRI that the tests write: a prone body with two breasts in T1, and a subtraction volume with a lesion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np

SHAPE = (40, 60, 90)
SPACING = (4.0, 4.0, 4.0)
MIDLINE = 180.0
"""x of the middle between the breasts, in millimetres."""
SKIN = 110.0
"""y of the skin over the breastbone."""
REACH = {"right": 70.0, "left": 90.0}
"""How far the breasts stand out before it."""
CENTRES = {"right": (80.0, 110.0), "left": (80.0, 250.0)}
"""z and x of the nipples."""
LESION = {"right": (80.0, 80.0, 105.0), "left": (96.0, 60.0, 262.0)}
"""z, y and x of the lesions."""


def grid() -> tuple[np.ndarray, ...]:
    """Return z, y and x of the voxels in millimetres."""
    return tuple(
        side * np.arange(n).reshape([-1 if a == i else 1 for a in range(3)])
        for i, (n, side) in enumerate(zip(SHAPE, SPACING, strict=True))
    )


def examination(
    seed: int = 0, sides: tuple[str, ...] = ("right", "left"), lesions: tuple[str, ...] = ("left",)
) -> tuple[np.ndarray, np.ndarray]:
    """Return T1 and subtraction, (d, h, w) float32 each, with some breasts and some lesions."""
    rng = np.random.default_rng(seed)
    z, y, x = grid()
    torso = (((x - MIDLINE) / 150) ** 2 + ((y - SKIN - 75) / 75) ** 2 < 1) & (z > -1)
    # Lungs are dark holes in the body.
    lungs = ((np.abs(x - MIDLINE) - 70) / 45) ** 2 + ((y - SKIN - 80) / 40) ** 2 < 1
    breasts = np.zeros(SHAPE, bool)
    for side in sides:
        middle_z, middle_x = CENTRES[side]
        here = ((z - middle_z) / 60) ** 2 + ((x - middle_x) / 60) ** 2 + ((y - SKIN - 10) / (REACH[side] + 10)) ** 2 < 1
        breasts |= here & (y < SKIN + 20)
    t1 = 20 * rng.random(SHAPE)
    t1 += 300 * torso * ~lungs + 700 * (breasts & ~torso)
    # A coil fades towards the back.
    t1 *= np.exp(-y / 300)
    subtraction = 5 * rng.standard_normal(SHAPE) + 30 * breasts
    for side in lesions:
        far = np.sqrt(sum((axis - m) ** 2 for axis, m in zip((z, y, x), LESION[side], strict=True)))
        subtraction += 400 * (far < 10)
    return t1.astype(np.float32), subtraction.astype(np.float32)


AXIAL = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
"""NIfTI's affine of columns to the left, rows to the back, slices to the head."""


def save(path: Path, values: np.ndarray, affine: np.ndarray = AXIAL) -> Path:
    """Write a volume (d, h, w) as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0), affine), path)
    return path


def write_breasts(folder: Path, patients: int = 6) -> dict[str, Any]:
    """Write examinations of some patients with a table; returns the options that read them."""
    lines = ["patient,t1,subtraction,right,left,split"]
    for i in range(patients):
        t1, subtraction = examination(i, lesions=("left",) if i % 2 else ())
        save(folder / f"{i}-t1.nii", t1)
        save(folder / f"{i}-sub.nii", subtraction)
        split = ("train", "validation", "test")[i // 2 % 3]
        lines.append(
            f"p{i},{i}-t1.nii,{i}-sub.nii,{('none', 'benign')[i // 2 % 2]},{('none', 'malignant')[i % 2]},{split}"
        )
    (folder / "labels.csv").write_text("\n".join(lines))
    return {"path": str(folder), "size": 16, "depth": 8}
