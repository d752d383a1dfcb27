"""What a report says first: what was learnt from what, in a few sentences, and the run at a glance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fewcore.contracts import split_word
from fewcore.metrics import MetricRow, lower_is_better
from fewcore.progress import clock_text
from fewcore.reports.results import Column, Line, paper_number, results_of, unlabelled
from fewcore.reports.tables import is_percent, number, p_text, short, with_interval, words

if TYPE_CHECKING:
    from fewcore.reports.report import RunReport


def headline(report: RunReport) -> list[str]:
    """Return what was learnt from what, in a few sentences: the best model that saw no label, and the best that did.

    They speak of the first column of the first evaluator, on test rows; of several rated attributes, of the first.
    """
    for results in results_of(report):
        tested = [line for line in results.main if line.split == "test"]
        if not tested:
            continue
        asked = tested[0].conditions.get("attribute")
        tested = [line for line in tested if line.conditions.get("attribute") == asked]
        column = next(c for c in results.columns if any(c in line.values for line in tested))
        judged = [line for line in tested if column in line.values and math.isfinite(line.values[column].value)]
        ranked = sorted(judged, key=lambda line: line.values[column].value, reverse=not lower_is_better(column.metric))
        free = [line for line in ranked if unlabelled(line.values[column])]
        taught = [line for line in ranked if line.values[column].seen and line not in free]
        percent = is_percent(column.metric, [line.values[column].value for line in ranked])
        # Rows that saw nothing, such as the share of the commonest class, are no models.
        idle = [line for line in ranked if not line.values[column].seen]
        return [
            _said(report, rivals, column, percent) + _no_better(rivals[0], idle, column, percent)
            for rivals in (free, taught)
            if rivals
        ]
    return []


def _said(report: RunReport, ranked: Sequence[Line], column: Column, percent: bool) -> str:
    """Return a sentence on the best of some models, and one on the next at the same conditions."""
    best = ranked[0]
    rivals = [line for line in ranked if line.others == best.others]
    row = best.values[column]
    splits = report.data.get("splits")
    train = splits.get("train") if isinstance(splits, Mapping) else None
    text = f"{_given(train, row.seen)}, {_name(best)} reaches {_measured(row, percent)}"
    task = " ".join(f"{n}-{what}" for n, what in ((column.way, "way"), (column.shot, "shot")) if n is not None)
    text += f" on {short(row.n)} {task} tasks" if task else ""
    if task and column.metric == "accuracy" and isinstance(column.way, int) and column.way > 1:
        text += f" (chance: {100 / column.way:.3g}\u00a0%)"
    paper = paper_number(report, row)
    if paper is not None:
        text += f"; the paper reports {number(float(paper['value']), percent)}" + ("\u00a0%" if percent else "")
    if len(rivals) > 1:
        kind = "saw no label" if unlabelled(row) else "saw labels"
        other = _name(rivals[1]) if rivals[1].name == best.name else rivals[1].name
        text += f". Of {len(rivals)} models that {kind} this is the best number; next is {other}"
        text += f" with {_value(rivals[1].values[column], percent)}{_verdict(report, best, rivals[1], column)}"
    return f"{text}.{_beside(row.seen)}"


def _no_better(best: Line, idle: Sequence[Line], column: Column, percent: bool) -> str:
    """Return a sentence where the best model is no better than a row that learns nothing."""
    value, sign = best.values[column].value, -1 if lower_is_better(column.metric) else 1
    ahead = [line for line in idle if line.others == best.others and sign * (line.values[column].value - value) >= 0]
    told = [f"{line.name} ({_value(line.values[column], percent)})" for line in ahead[:1]]
    return f" That is no better than {told[0]}, which learns nothing." if told else ""


def _given(train: int | None, seen: str) -> str:
    """Return what a model learnt from: `From 900 training images with the labels of 60 training images`."""
    images = f"From {short(train)} training images" if train else "From the training images"
    labels = seen.partition("; transductive: ")[0].removeprefix("labels: ")
    if labels.startswith("none"):
        return f"{images} without labels"
    counts = labels.partition(" (")[0].replace(" + ", " and ")
    if train and counts.startswith(f"{train} training"):
        more = counts.removeprefix(f"{train} training").removeprefix(" and ")
        return f"{images}, all labelled" + (f", and {more} images with labels" if more else "")
    return f"{images} with the labels of {counts} images" if counts else images


def _beside(seen: str) -> str:
    """Return what is to be said of a model beside the labels it learnt from, as sentences."""
    labels, _, transductive = seen.partition("; transductive: ")
    watched = labels.partition("(monitored only: ")[2].rstrip(")")
    told = f" The labels of {watched} images were used to watch it, not to teach it." if watched else ""
    return told + (f" It was fitted on the very images on which it is judged ({transductive})." if transductive else "")


def _name(line: Line) -> str:
    return f"{line.name} ({line.note})" if line.note else line.name


def _measured(row: MetricRow, percent: bool) -> str:
    value, metric = _value(row, percent), words(row.metric)
    return f"{value} {metric}" if percent else f"{metric} {value}"


def _value(row: MetricRow, percent: bool) -> str:
    return with_interval(row.value, row.ci95, percent).replace(" ", "\u00a0") + ("\u00a0%" if percent else "")


def _verdict(report: RunReport, best: Line, rival: Line, column: Column) -> str:
    """Return what the paired tests say of two lines; nothing where they were not compared at equal conditions."""
    ours = {**best.others, **{k: v for k, v in (("way", column.way), ("shot", column.shot)) if v is not None}}
    tests = [
        pair
        for made in report.reports.values()
        for pair in made.comparisons
        if pair.metric == column.metric
        and {pair.first, pair.second} == {best.subject, rival.subject}
        and dict(pair.conditions) == ours
    ]
    if not tests:
        return ""
    p = max(pair.p_holm for pair in tests)
    if not math.isfinite(p):
        return ""
    sign = "" if p < 0.001 else "= "
    corrected = f"p {sign}{p_text(p)} after Holm's correction"
    return f" (a paired test tells them apart: {corrected})" if p < 0.05 else f" (which may be chance: {corrected})"


def tiles(report: RunReport) -> list[tuple[str, str]]:
    """Return the run at a glance: numbers and what they are."""
    states = [stage.status for stage in report.stages]
    seconds = report.environment.get("wall_seconds", sum(s.seconds for s in report.stages if s.status == "computed"))
    memory = max((stage.peak_memory_mb for stage in report.stages), default=0.0)
    reused = states.count("reused")
    missing = states.count("failed") + states.count("missing")
    lines = [line for results in results_of(report) for line in results.lines]
    judged = {line.subject for line in lines if any(row.seen for row in line.values.values())}
    splits = report.data.get("splits")
    shown = [
        ("images", short(report.data["images"]) if report.data.get("images") is not None else ""),
        *(
            (f"{split_word(name)} images", short(count))
            for name, count in (splits.items() if isinstance(splits, Mapping) else ())
        ),
        ("models judged", short(len(judged) or "")),
        ("stages", f"{len(states)}" if states else ""),
        ("stages reused", f"{reused}" if reused else ""),
        ("stages missing", f"{missing}" if missing else ""),
        ("this run took", clock_text(float(seconds)) if seconds else ""),
        ("most memory", f"{memory / 1024:.1f} GiB" if memory >= 1024 else f"{memory:.0f} MiB" if memory > 0 else ""),
        ("device", short(report.environment.get("device", ""), 40)),
    ]
    return [(name, value) for name, value in shown if value]
