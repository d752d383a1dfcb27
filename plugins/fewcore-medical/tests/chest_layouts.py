"""Small chest radiographs in the layouts in which the real sets are handed out; each writer returns the options that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def ellipse(size: tuple[int, int], column: float) -> np.ndarray:
    """Return an ellipse (h, w) bool around a column, given as a share of the width."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    x, y = (columns + 0.5) / size[1] - column, (rows + 0.5) / size[0] - 0.5
    return (x / 0.15) ** 2 + (y / 0.35) ** 2 < 1


def film(size: tuple[int, int], number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an image (h, w) in [0, 1] whose lungs are dark, and the masks of the lungs on its left and right."""
    left, right = ellipse(size, 0.27 + 0.002 * number), ellipse(size, 0.73)
    return np.where(left | right, 0.2, 0.8), left, right


def save(path: Path, pixels: np.ndarray) -> None:
    """Write an image, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_montgomery(
    folder: Path, n: int = 12, size: tuple[int, int] = (40, 30), wrapped: bool = True
) -> dict[str, Any]:
    """Write films of two classes in turn."""
    base = folder / "MontgomerySet" if wrapped else folder
    for i in range(n):
        name = f"MCUCXR_{i + 1:04d}_{i % 2}.png"
        image, left, right = film(size, i)
        save(base / "CXR_png" / name, (255 * image).astype(np.uint8))
        save(base / "ManualMask" / "leftMask" / name, right)
        save(base / "ManualMask" / "rightMask" / name, left)
    return {"path": str(folder), "complete": False, "image_size": 16}


def write_shenzhen(folder: Path, n: int = 12, n_masks: int = 9, size: tuple[int, int] = (36, 40)) -> dict[str, Any]:
    """Write coloured films of two classes in turn; the first have masks."""
    for i in range(n):
        name = f"CHNCXR_{i + 1:04d}_{i % 2}"
        image, left, right = film(size, i)
        pixels = (255 * image).astype(np.uint8)
        save(folder / "ChinaSet_AllFiles" / "CXR_png" / f"{name}.png", np.stack([pixels] * 3, -1))
        if i < n_masks:
            save(folder / "mask" / "mask" / f"{name}_mask.png", 255 * (left | right).astype(np.uint8))
    return {"path": str(folder), "complete": False, "image_size": 16}


def write_jsrt(folder: Path, n: int = 12, side: int = 32) -> dict[str, Any]:
    """Write raw films, two in three with a nodule, and masks of half their side, as GIF files in two folds."""
    for i in range(n):
        name = f"JPC{'NN' if i % 3 == 0 else 'LN'}{i + 1:03d}"
        image = film((side, side), i)[0]
        values = np.rint(4095 * (1 - image)).astype(">u2")
        path = folder / "All247images" / f"{name}.IMG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(values.tobytes())
        _, left, right = film((side // 2, side // 2), i)
        for lung, mask in (("left lung", right), ("right lung", left)):
            save(folder / "scratch" / f"fold{1 + i % 2}" / "masks" / lung / f"{name}.gif", 255 * mask.astype(np.uint8))
    return {"path": str(folder), "complete": False, "image_size": 16, "side": side}


def write_chest(folder: Path) -> dict[str, Any]:
    """Write all three sets: 12 + 9 + 12 films with masks, 3 without."""
    options = {"complete": False, "image_size": 16, "side": 32, "n_train": 18, "n_validation": 3, "n_test": 9}
    write_montgomery(folder / "montgomery")
    write_shenzhen(folder / "shenzhen")
    write_jsrt(folder / "jsrt")
    return options | {name: str(folder / name) for name in ("montgomery", "shenzhen", "jsrt")}
