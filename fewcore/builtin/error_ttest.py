"""The t-test of a paper that takes a standard error for the deviation of single images: shown, and flagged for what it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scipy import stats

from fewcore import StatisticalTest

NOTE = (
    "as published: it takes the standard error, as printed with two digits, for the deviation of one image, so that p is far "
    "too small; uncorrected"
)
PRINTED = 2
"""Digits of the errors in the paper's tables."""


def error_ttest(
    about: str, areas: tuple[float, float], errors: tuple[float, float], n: int, conditions: Mapping[str, Any]
) -> StatisticalTest:
    """Return the unpaired two-sided t-test of two areas under the ROC curve as G. Maicas et al. must have computed it.

    Their p-values (p <= 0.001 for 0.89 against 0.85 and less, p > 0.05 for 0.89 against 0.90) follow where the standard error
    of an area, as it is printed with two digits, stands for the standard deviation of n single images, in two independent
    groups. A standard error is smaller than such a deviation by about the square root of n. There is no interval. NaN where
    an error is unknown or printed as 0.

    Source: G. Maicas, C. Nguyen, F. Motlagh, J. C. Nascimento, G. Carneiro: Unsupervised Task Design to Meta-Train Medical
    Image Classifiers, ISBI 2020, arXiv:1907.07816, section 4.2.
    """
    t = p = math.nan
    one, other = (round(error, PRINTED) for error in errors)
    if one > 0 and other > 0:
        found = stats.ttest_ind_from_stats(areas[0], one, n, areas[1], other, n)
        t, p = float(found.statistic), float(found.pvalue)
    effect = areas[0] - areas[1]
    return StatisticalTest(
        "auc", about, "unpaired t-test", t, p, math.nan, 2 * n, effect, conditions=conditions, note=NOTE
    )
