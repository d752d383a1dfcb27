"""How well tasks went: loss, accuracy and area under the ROC curve of their queries."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fewcore import Array, TaskBatch


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each task, summed over classes, of each class the mean over its images, (t,).

    `logits` is (t, n, k), `labels` (t, n), -1 for what does not count. Where classes have equally many images that is k
    times the mean over all, as in CACTUs' code; where they do not, as with unequal sides of `cluster-subsets`, each class
    weighs the same. A class without an image counts as the mean of the others.
    """
    k = logits.shape[-1]
    each = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="none")
    counts = (labels[..., None] == torch.arange(k, device=labels.device)).sum(1)
    # What does not count has the loss 0, and may stand for a class without an image.
    own = counts.gather(1, labels.clamp(min=0)) * (counts > 0).sum(1, keepdim=True)
    return k * (each.view(labels.shape) / own.clamp(min=1)).sum(1)


def task_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of right queries of each task, (t,), among those whose label is not -1."""
    known = labels >= 0
    right = (logits.argmax(-1) == labels) & known
    return right.sum(1) / known.sum(1)


def task_auc(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the area under the ROC curve of each two-way task's queries, (t,), NaN where a class has none.

    `logits` is (t, n, 2), `labels` (t, n), -1 for what does not count.
    """
    margin = logits[..., 1] - logits[..., 0]
    pairs = (labels == 1)[:, :, None] & (labels == 0)[:, None, :]
    above = (margin[:, :, None] > margin[:, None, :]).float() + 0.5 * (margin[:, :, None] == margin[:, None, :])
    return (above * pairs).sum((1, 2)) / pairs.sum((1, 2))


def mean_accuracy(scores: Array, batch: TaskBatch) -> float:
    """Return the share of right queries, averaged over tasks; `batch` holds the query labels, padding does not count."""
    right = scores.argmax(-1) == batch.query_labels
    return float(np.mean([r[k].mean() for r, k in zip(right, batch.query_known, strict=True)]))
