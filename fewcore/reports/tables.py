"""Tables as text with what sorts and stresses it (pages and terminals only draw them), and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewcore.reports.report import StageRecord

PERCENT = ("accuracy", "sensitivity", "specificity", "precision", "recall", "purity")


@dataclass(frozen=True)
class Cell:
    """What stands in a table: its text, the number by which it sorts, whether it is stressed, and small print."""

    text: str
    sort: float | None = None
    best: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table; `columns` and `rows` have equal lengths. A column of numbers stands right.

    `folded` where it says again, in full, what stands elsewhere.
    """

    title: str
    columns: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    folded: bool = False

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column holds numbers."""
        return tuple(any(row[i].sort is not None for row in self.rows) for i in range(len(self.columns)))


ACRONYMS = {word: word.upper() for word in ("auc", "roc", "mae", "mse", "rmse", "ssim", "f1", "ece", "nll")}


def words(name: str) -> str:
    """Return a name as words.

    >>> words("balanced_accuracy"), words("auc_malignant")
    ('balanced accuracy', 'AUC malignant')
    """
    return " ".join(ACRONYMS.get(word, word) for word in name.replace("_", " ").split(" "))


def short(value: Any, length: int = 60) -> str:
    """Return a value as one line of text."""
    if isinstance(value, bool) or value is None:
        return "yes" if value else "no" if value is False else "–"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    if isinstance(value, Mapping):
        text = ", ".join(f"{key} {short(item)}" for key, item in value.items())
    elif isinstance(value, list | tuple):
        text = ", ".join(short(item) for item in value)
    else:
        text = " ".join(str(value).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def is_percent(metric: str, values: Iterable[float] = ()) -> bool:
    """Return whether a metric is shown in percent: a share by its name, and all known values in [0, 1]."""
    named = any(word in metric.lower().replace("-", "_").split("_") for word in PERCENT)
    return named and all(-1 <= v <= 1 for v in values if math.isfinite(v))


def number(value: float, percent: bool = False, sign: bool = False) -> str:
    """Return a number to one decimal of a percent, or to three significant digits.

    >>> number(0.7749, percent=True), number(0.87314), number(1234.5), number(float("nan"))
    ('77.5', '0.873', '1234', '–')
    """
    if not math.isfinite(value):
        return "–"
    plus = "+" if sign else ""
    return format(100 * value, f"{plus}.1f") if percent else format(value, f"{plus}.{_decimals(value)}f")


def _decimals(value: float) -> int:
    return 3 if abs(value) < 1e-9 else min(8, max(0, 2 - math.floor(math.log10(abs(value)))))


def p_text(p: float) -> str:
    """Return a p value.

    >>> p_text(0.00004), p_text(0.0312), p_text(0.4)
    ('< 0.001', '0.031', '0.400')
    """
    return "–" if not math.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def with_interval(value: float, ci95: Sequence[float], percent: bool = False) -> str:
    """Return a number with its 95% interval, as `±` where both halves are equal to the eye.

    >>> with_interval(0.775, (0.766, 0.784), percent=True), with_interval(0.873, (0.79, 0.92))
    ('77.5 ± 0.9', '0.873 (0.790 to 0.920)')
    """
    low, high = (float(end) for end in ci95)
    if not all(math.isfinite(v) for v in (value, low, high)):
        return number(value, percent)
    scale, digits = (100.0, 1) if percent else (1.0, _decimals(value))
    below, above = scale * (value - low), scale * (high - value)
    if min(below, above) >= 0 and abs(below - above) <= max(0.05 * (below + above), 0.5 * 10**-digits):
        return f"{scale * value:.{digits}f} ± {(below + above) / 2:.{digits}f}"
    return f"{scale * value:.{digits}f} ({scale * low:.{digits}f} to {scale * high:.{digits}f})"


def signed(value: float, percent: bool = False) -> Cell:
    """Return a difference, sorted by its value."""
    return Cell(number(value, percent, sign=True), value if math.isfinite(value) else None)


def stage_table(stages: Sequence[StageRecord]) -> Table:
    """Return every stage of every cell: who made it, whether it was computed, and what it cost."""
    from fewcore.progress import clock_text

    rows = []
    for stage in stages:
        maker = f"{stage.distribution} {stage.version}"
        seconds = clock_text(stage.seconds) if stage.seconds >= 60 else f"{stage.seconds:.1f} s"
        cost = stage.status in {"computed", "reused"} and stage.seconds > 0
        memory = cost and math.isfinite(stage.peak_memory_mb) and stage.peak_memory_mb > 0
        rows.append(
            (
                Cell(stage.name, note=short(stage.conditions) if stage.conditions else ""),
                Cell(stage.component, note=f"{words(stage.kind)}, {maker}"),
                Cell(stage.split),
                Cell(stage.status, best=stage.status in {"failed", "missing"}, note=short(stage.error, 200)),
                Cell(seconds, stage.seconds, note="when computed" if stage.status == "reused" else "")
                if cost
                else Cell(""),
                Cell(f"{stage.peak_memory_mb:,.0f} MB", stage.peak_memory_mb) if memory else Cell(""),
                Cell(stage.key[:12]),
            )
        )
    heads = ("stage", "component", "rows", "result", "time", "peak memory", "key")
    return Table("Stages", tuple(map(Cell, heads)), tuple(rows))


def stage_notes(stages: Sequence[StageRecord]) -> tuple[str, ...]:
    """Return in a sentence what became of the stages, and what the columns are."""
    if not stages:
        return ()
    states = [stage.status for stage in stages]
    told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return (
        f"{len(stages)} stages: {told}. What is reused was in the store under its key and cost nothing now; its time and"
        " memory are those of when it was computed.",
    )


def candidate_table(candidates: Sequence[Mapping[str, Any]]) -> Table:
    """Return what `select` chose from, on validation rows."""
    axes = list(dict.fromkeys(key for one in candidates for key in one.get("conditions", {})))
    rows = []
    for one in candidates:
        score = float(one["score"]) if one.get("score") is not None else math.nan
        cells = [_axis(one.get("conditions", {}).get(axis)) for axis in axes]
        number_cell = Cell(number(score), score if math.isfinite(score) else None, best=bool(one.get("chosen")))
        rows.append((*cells, number_cell, Cell("chosen" if one.get("chosen") else "")))
    heads = (*map(Cell, axes), Cell("score on validation"), Cell("result"))
    return Table("Choice on validation", heads, tuple(rows), "Only what was chosen met the test rows.")


def _axis(value: Any) -> Cell:
    return Cell(short(value), float(value) if isinstance(value, int | float) else None)


def facts_table(title: str, facts: Mapping[str, Any]) -> Table:
    """Return a mapping as a table of two columns; mappings inside it, such as versions, line by line."""
    rows = []
    for key, value in facts.items():
        if isinstance(value, Mapping) and len(value) > 12:
            first = dict(list(value.items())[:12])
            rows.append((Cell(words(str(key))), Cell(f"{short(first, 400)}, and {len(value) - 12:,} more")))
        elif key == "size" and isinstance(value, list | tuple):
            rows.append((Cell("size"), Cell(" × ".join(map(str, value)) + " pixels")))
        else:
            rows.append((Cell(words(str(key))), Cell(short(value, 400))))
    return Table(title, (Cell(""), Cell("")), tuple(rows))
