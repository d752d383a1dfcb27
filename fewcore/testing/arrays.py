"""What checks ask of arrays: their shape, type and finiteness, and whether two are equal but for rounding."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewcore.components import Offer
from fewcore.contracts import Array
from fewcore.testing.trial import complain

CLOSE = 1e-4
"""How far results may be apart that are equal but for rounding, relative to the largest."""


def check_array(offer: Offer, array: Any, shape: tuple[int | None, ...], what: str, dtype: str = "") -> None:
    """Complain where something is no array of a shape (None fits every length), or not finite."""
    names = ", ".join("any" if size is None else str(size) for size in shape)
    if not isinstance(array, np.ndarray):
        complain(offer, f"{what} of type {type(array).__name__}", f"a numpy array ({names})", ".cpu().numpy()")
    fits = array.ndim == len(shape) and all(s in (None, n) for s, n in zip(shape, array.shape, strict=True))
    if not fits or (dtype and str(array.dtype) != dtype):
        complain(
            offer,
            f"{what} {array.dtype} {array.shape}",
            f"{dtype or 'numbers'} ({names})",
            f"np.asarray(..., dtype='{dtype or array.dtype}') of that shape",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        complain(
            offer, f"{what} with NaN or infinity", "finite numbers", "a guard where it divides or takes logarithms"
        )


def is_apart(first: Array, second: Array) -> bool:
    """Return whether two arrays have other shapes, or differ by more than rounding; NaN differs from everything."""
    if first.shape != second.shape:
        return True
    scale = float(np.abs(first).max(initial=1e-12))
    return not np.allclose(first, second, rtol=CLOSE, atol=CLOSE * scale)
