"""Measures of predicted masks against the truth, image by image, with a policy for structures that are empty.

A structure that is missed gets the worst number that there is, never NaN: NaN would leave the image out of a mean, and
the mean would rise. Masks are (n, ...) bool, of one structure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import directed_hausdorff
from skimage import metrics

from fewcore import Array

RATIOS = {"dice": "f1 score", "jaccard": "threat score", "precision": "precision", "recall": "recall"}
"""Our names of what is a ratio of counts of pixels, and MONAI's."""

CHUNK = 2**22
"""Pixels that are counted at a time."""

SKIMAGE: Any = metrics
"""Half of its functions have types."""

Statistic = Callable[[Array], Array]


def _monai() -> Any:
    """Return MONAI's metrics, imported when they are asked for: that takes seconds, and no check of a file needs them."""
    import monai.metrics

    return monai.metrics


def confusion(predicted: Array, truth: Array) -> Array:
    """Return how many pixels of each image are true positives, false positives, true and false negatives: (n, 4)."""
    step = max(1, CHUNK // max(1, math.prod(truth.shape[1:])))
    counts = [np.empty((0, 4))]
    for start in range(0, len(truth), step):
        parts = (torch.from_numpy(masks[start : start + step, None].astype(np.float32)) for masks in (predicted, truth))
        counts.append(_monai().get_confusion_matrix(*parts)[:, 0].numpy())
    return np.concatenate(counts).astype(np.float64)


def ratio(counts: Array, name: str) -> Array:
    """Return Dice, Jaccard, precision or recall of each row of `counts` (n, 4), (n,) in [0, 1].

    Where a ratio is 0/0 it is 1 if neither truth nor prediction has a pixel, else 0: an empty prediction of a present
    structure has precision 0, a prediction of an absent one recall 0.
    """
    found = _monai().compute_confusion_matrix_metric(RATIOS[name], torch.from_numpy(counts)).numpy()
    anything = counts[:, [0, 1, 3]].sum(1) > 0
    return np.where(np.isnan(found), np.where(anything, 0.0, 1.0), found)


def pooled_ratio(counts: Array, name: str) -> Statistic:
    """Return the ratio of the pixels of all images together, as a statistic of weights (b, n), how often each counts."""

    def statistic(weights: Array) -> Array:
        return ratio(weights @ counts, name)

    return statistic


def similarity(predicted: Array, truth: Array, window: int) -> Array:
    """Return the structural similarity of each pair of masks (n, ...) as images of 0 and 1, (n,), by scikit-image.

    It counts the background too, so it is high where a structure is small, even one that is missed.

    Source: Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli: Image Quality Assessment, IEEE Transactions on Image
    Processing 13, 2004, doi:10.1109/TIP.2003.819861.
    """
    pairs = zip(predicted.astype(np.float64), truth.astype(np.float64), strict=True)
    return np.array(
        [SKIMAGE.structural_similarity(p, t, win_size=window, data_range=1.0) for p, t in pairs], np.float64
    )


def average_hausdorff(predicted: Array, truth: Array) -> Array:
    """Return the average Hausdorff distance of each pair of masks (n, ...), (n,) in pixels.

    From each pixel on the edge of one mask to the nearest on the edge of the other, averaged over the edge, and the mean
    of both directions (MONAI's surface distances). Where one mask alone is empty it is the diagonal of the image, which
    no distance exceeds; where both are, 0.
    """
    found = np.zeros(len(truth))
    for i, (p, t) in enumerate(zip(predicted, truth, strict=True)):
        if p.any() and t.any():
            ours, theirs = _monai().get_mask_edges(p, t, crop=False)
            there, back = (_monai().get_surface_distance(*pair) for pair in ((ours, theirs), (theirs, ours)))
            found[i] = (there.mean(dtype=np.float64) + back.mean(dtype=np.float64)) / 2
        elif p.any() or t.any():
            found[i] = diagonal(t.shape)
    return found


def diagonal(shape: tuple[int, ...]) -> float:
    """Return the diagonal of an image in pixels."""
    return math.sqrt(sum(side**2 for side in shape))


def row_hausdorff(predicted: Array, truth: Array) -> Array:
    """Return the Hausdorff distance of each pair of masks (n, h, w) when each row of pixels is taken as a point, (n,).

    A row of w pixels is a point of w dimensions here, so this is no distance in the image. It is what comes out where
    `scipy.spatial.distance.directed_hausdorff` is given masks instead of the coordinates of their pixels.
    """
    pairs = [(p.reshape(-1, p.shape[-1]).astype(float), t.reshape(-1, t.shape[-1]).astype(float))
             for p, t in zip(predicted, truth, strict=True)]  # fmt: skip
    return np.array([max(directed_hausdorff(p, t)[0], directed_hausdorff(t, p)[0]) for p, t in pairs], np.float64)
