"""What evaluators read and make: outcomes of models beside the truth, and reports of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fewcore.contracts import Array, Meta, Predictions, Seen, Target


@dataclass(frozen=True, eq=False)
class Outcome:
    """The predictions of one model on one split beside the truth: what an evaluator reads.

    `stage` is the model's name in the pipeline, `method` its component's name. `conditions` are what is compared
    (matrix axes, `way`, `shot`), `repeats` what is averaged over (`seed`, `fold`). `truth` maps targets to `Target`s, in
    the order of `predictions.ids`; `target` is the class target that is meant. For few-shot tasks `ids` and `groups`
    number the tasks, and `query_labels` (t, q) are the truth, -1 for padding. `norm` says how batch norm took its
    statistics; `seen` what was seen on the way.
    """

    stage: str
    method: str
    predictions: Predictions
    split: str
    ids: Array
    groups: Array
    truth: Mapping[str, Target] = field(default_factory=dict)
    target: str = ""
    query_labels: Array | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    repeats: Mapping[str, Any] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)
    norm: str = "none"

    def with_conditions(self, **conditions: Any) -> Outcome:
        """Return the outcome with more conditions."""
        return replace(self, conditions={**self.conditions, **conditions})


LOWER_IS_BETTER = ("error", "loss", "mae", "mse", "rmse", "distance", "hausdorff", "brier", "ece", "nll")
"""Words in the name of a metric that say that less of it is better."""


def lower_is_better(metric: str) -> bool:
    """Return whether the smallest number of a metric is the best."""
    return any(word in metric.lower().replace("-", "_").split("_") for word in LOWER_IS_BETTER)


@dataclass(frozen=True)
class MetricRow:
    """One number of a report: its value, 95% interval, and what it was measured on.

    `ci95` is (low, high), NaN where no interval can be given; `n` counts what the interval is over (tasks, images).
    `note` says what the interval is of. A row that is averaged over seeds or folds has them in `repeats` as text.
    """

    metric: str
    value: float
    ci95: tuple[float, float]
    n: int
    stage: str
    method: str
    split: str = "test"
    conditions: Mapping[str, Any] = field(default_factory=dict)
    repeats: Mapping[str, Any] = field(default_factory=dict)
    norm: str = "none"
    seen: str = ""
    note: str = ""

    def to_json(self) -> Meta:
        """Return the row as one flat object, conditions and repeats among its keys."""
        bare = {"metric": self.metric, "value": self.value, "ci95": list(self.ci95), "n": self.n, "stage": self.stage}
        tail = {"split": self.split, "norm": self.norm, "seen": self.seen, "note": self.note}
        return {**bare, "method": self.method, **self.conditions, **self.repeats, **tail}


@dataclass(frozen=True)
class Comparison:
    """A paired test of two models on the same tasks or images: `difference` is first minus second."""

    metric: str
    first: str
    second: str
    difference: float
    ci95: tuple[float, float]
    p: float
    p_holm: float
    n: int
    test: str
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> Meta:
        """Return the comparison as one flat object."""
        bare = {name: getattr(self, name) for name in ("metric", "first", "second", "difference", "p", "p_holm", "n")}
        return {**bare, "ci95": list(self.ci95), "test": self.test, **self.conditions}


@dataclass(frozen=True, eq=False)
class MetricReport:
    """What an evaluator makes: rows, paired comparisons, and the arrays behind them (one number a task or image).

    `left_out` names the models that lack what the evaluator needs. `curves` holds named arrays to be drawn, such as ROC
    curves: name -> {"x": ..., "y": ..., "x_label": ..., "y_label": ...}.
    """

    rows: tuple[MetricRow, ...]
    comparisons: tuple[Comparison, ...] = ()
    arrays: Mapping[str, Array] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
