"""An evaluator that fewcore does not bring: overlap of masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fewcore import MetricReport, MetricRow, Outcome, Run, mean_interval, option


@dataclass(frozen=True)
class Segmentation:
    """Dice of each image, averaged."""

    over: Literal["pooled", "fold"] = option("pooled", "images of all folds together, or fold by fold")

    reads: ClassVar[tuple[str, ...]] = ("masks",)

    def evaluate(self, outcomes: tuple[Outcome, ...], run: Run) -> MetricReport:
        """Return a row for each outcome that has masks."""
        rows, left_out = [], []
        for o in outcomes:
            if o.predictions.masks is None:
                left_out.append(o.stage)
                continue
            found = o.predictions.masks.reshape(len(o.ids), -1) > 0.5
            truth = o.truth["masks"].values.reshape(len(o.ids), -1) > 0.5
            dice = 2 * (found & truth).sum(1) / np.maximum(found.sum(1) + truth.sum(1), 1)
            mean = mean_interval(dice)
            rows.append(
                MetricRow(
                    "dice",
                    mean.value,
                    mean.ci95,
                    len(dice),
                    o.stage,
                    o.method,
                    o.split,
                    o.conditions,
                    o.repeats,
                    o.norm,
                    str(o.seen),
                )
            )
        return MetricReport(tuple(rows), left_out=tuple(dict.fromkeys(left_out)))
