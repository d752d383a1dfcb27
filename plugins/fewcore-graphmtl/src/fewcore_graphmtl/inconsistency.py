"""How far the readers of an image disagree, and what is made of it.

Source: S. Hussein et al., IEEE TMI 38, 2019, arXiv:1801.03230, eq. 5.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np

from fewcore import Array, NumericalError

Mode = Literal["inverse-weight", "literal", "literal-mean-at-test", "none"]


def inconsistency(ratings: Array) -> Array:
    """Return Psi (n,) of ratings (n, readers) with NaN where a reader said nothing: exp(sum (x - mean)^2 / (2 std)).

    `std` is that of the population, as a plain and not a squared number: Psi is exp(readers * std / 2). It is 1 where
    all agree, and where one reader or none has said anything.

    Raises:
        NumericalError: Psi is too large for a number.

    """
    known = ~np.isnan(ratings)
    count = known.sum(1)
    safe = np.maximum(count, 1)
    mean = np.where(known, ratings, 0).sum(1) / safe
    square = np.where(known, (ratings - mean[:, None]) ** 2, 0).sum(1)
    spread = np.sqrt(square / safe)
    exponent = np.divide(square, 2 * spread, out=np.zeros_like(square), where=spread > 0)
    if exponent.max(initial=0) > 600:
        raise NumericalError(
            f"inconsistency: found readers {2 * exponent.max():.0f} points apart in all; expected ratings on a scale such as "
            "1 to 5 (rescale the ratings, or set inconsistency: none)"
        )
    return np.asarray(np.exp(exponent))


def warn_of_literal(mode: Mode) -> None:
    """Warn where features are shifted in training by what nobody knows when predicting."""
    if mode.startswith("literal"):
        warnings.warn(
            f"inconsistency: {mode}: training adds the readers' disagreement to every feature, which is unknown when "
            "predicting; errors on new images grow (inverse-weight and none do not do that)",
            UserWarning,
            stacklevel=3,
        )
