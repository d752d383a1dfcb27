"""What evaluators read and make: outcomes of models beside the truth, and reports of metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fewcore.contracts import Array, Meta, Predictions, Seen, Target
from fewcore.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Outcome:
    """The predictions of one model on one split beside the truth: what an evaluator reads.

    `stage` is the model's name in the pipeline, `method` its component's name. `conditions` are what is compared
    (matrix axes, `way`, `shot`), `repeats` what is averaged over (`seed`, `fold`). `truth` maps targets to `Target`s, in
    the order of `predictions.ids`; `target` is the class target that is meant. For few-shot tasks `ids` and `groups`
    number the tasks, and `query_labels` (t, q) are the truth, -1 for padding. `norm` says how batch norm took its
    statistics; `seen` what was seen on the way. `images` are those of the whole data set, perhaps memory-mapped, for
    figures alone: the one behind a prediction is `images[id]`; None for few-shot tasks.
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
    images: Array | None = None

    def with_conditions(self, **conditions: Any) -> Outcome:
        """Return the outcome with more conditions."""
        return replace(self, conditions={**self.conditions, **conditions})


LOWER_IS_BETTER = (
    "error", "loss", "mae", "mse", "rmse", "distance", "hausdorff", "brier", "ece", "nll", "missed", "alarms"
)  # fmt: skip
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


@dataclass(frozen=True)
class StatisticalTest:
    """A test that is no paired comparison of two models: over several models, between classes, of a correlation.

    `about` says in words what is tested (`s4mtl: normal − nodule`), `test` by what. `statistic` is F, t or r; `effect`
    the difference or correlation with its interval, NaN where there is none (see `SampleTest`). `n` counts all that
    entered. `p_holm` is corrected over all tests of the report (`grouping.corrected_tests`).
    """

    metric: str
    about: str
    test: str
    statistic: float
    p: float
    p_holm: float
    n: int
    effect: float = math.nan
    ci95: tuple[float, float] = (math.nan, math.nan)
    conditions: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> Meta:
        """Return the test as one flat object."""
        names = ("metric", "about", "test", "statistic", "p", "p_holm", "n", "effect", "note")
        return {**{name: getattr(self, name) for name in names}, "ci95": list(self.ci95), **self.conditions}


@dataclass(frozen=True, eq=False)
class UnitScores:
    """What one model got on each of n tasks or images: small enough to be kept, and all that its paired tests need.

    A run keeps them, so that `fewcore compare` can make the tests of two runs that the evaluator makes of two models:
    `paired_tests(first, second)`. `stage`, `method`, `split`, `conditions` and `name` are those of the model (of a
    `grouping.Subject`); `more` says what else tells numbers of one model apart, such as the rated attribute. `arrays`
    are the evaluator's own, of whole numbers, truth values or floats, and all begin with the units: (n, ...), in the
    order of the ids or tasks. Nothing that names a patient or a file may be among them. `seed` is that of resamples.

    Raises:
        DataError: there is no array, one is of another type, or they have different lengths.

    """

    stage: str
    method: str
    split: str
    name: str
    conditions: Mapping[str, Any]
    arrays: Mapping[str, Array]
    more: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        shapes = {name: array.shape for name, array in self.arrays.items()}
        if len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
            raise DataError(
                f"scores of {self.name}: found arrays {shapes}; expected (n, ...), n tasks or images, in each"
            )
        for name, array in self.arrays.items():
            if array.dtype.kind not in "biuf":
                raise DataError(f"scores of {self.name}: found {array.dtype} in '{name}'; expected numbers")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def facts(self) -> dict[str, Any]:
        """The conditions and what else tells the numbers apart."""
        return {**self.conditions, **self.more}


def replaces_stage(axis: str) -> bool:
    """Return whether an axis puts components where a stage stands.

    >>> replaces_stage("stages.embed"), replaces_stage("stages.embed.dim"), replaces_stage("seed")
    (True, False, False)
    """
    return axis.startswith("stages.") and axis.count(".") == 1


FIGURE_COLOURS = (*(f"C{number}" for number in range(6)), "black")
FIGURE_SHAPES = ("line", "dashed", "dot", "square")


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure that an evaluator draws for the report.

    `draw(axes)` draws on matplotlib axes; the colours `C0` to `C5` and `black` are the page's own there, which fit
    light, dark and the colour-blind. `title` is the caption and `alt` says in words and numbers what is to be seen.
    `legend` holds (name, colour, shape), the shape being `line`, `dashed`, `dot` or `square`: names stand below the
    figure and not in it. `size` is width and height in inches; a figure wider than 6 has a line of the page for itself.

    Raises:
        DataError: there are no words, or a colour or shape is none of these.

    """

    title: str
    alt: str
    draw: Callable[[Axes], object]
    legend: tuple[tuple[str, str, str], ...] = ()
    size: tuple[float, float] = (4.4, 3.0)

    def __post_init__(self) -> None:
        if not (self.title.strip() and self.alt.strip()):
            raise DataError(f"figure '{self.title}': found no title or no alt; expected words that say what it shows")
        for name, colour, shape in self.legend:
            if colour not in FIGURE_COLOURS or shape not in FIGURE_SHAPES:
                expected = f"one of {', '.join(FIGURE_COLOURS)} and one of {', '.join(FIGURE_SHAPES)}"
                raise DataError(f"figure '{self.title}': found {colour} {shape} for '{name}'; expected {expected}")


@dataclass(frozen=True, eq=False)
class MetricReport:
    """What an evaluator makes: rows, paired comparisons, and the arrays behind them (one number a task or image).

    `left_out` names the models that lack what the evaluator needs. `curves` holds named arrays to be drawn, such as ROC
    curves: name -> {"x": ..., "y": ..., "x_label": ..., "y_label": ...}.
    `tests` are those that pair no models, `figures` what the evaluator draws itself. `units` are what an evaluator with
    `paired_tests` read for its comparisons: with them models of two runs can be compared as two of one run are.
    """

    rows: tuple[MetricRow, ...]
    comparisons: tuple[Comparison, ...] = ()
    arrays: Mapping[str, Array] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    curves: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tests: tuple[StatisticalTest, ...] = ()
    figures: tuple[Figure, ...] = ()
    units: tuple[UnitScores, ...] = ()
