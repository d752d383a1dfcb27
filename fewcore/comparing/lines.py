"""Runs side by side: each number of each model in every run that has it, and what differs between the runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fewcore.comparing.runs import Run
from fewcore.comparing.scores import EvaluatorScores
from fewcore.metrics import MetricRow

NOT_OPTIONS = ("published", "fewcore")
"""Keys of a pipeline that change no result."""


@dataclass(frozen=True, eq=False)
class Line:
    """One metric of one model at one set of conditions, and its number in each run that has it, by label."""

    stage: str
    metric: str
    evaluator: str
    split: str
    conditions: Mapping[str, Any]
    values: dict[str, MetricRow] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """Something in which the runs differ: `kind` is option, version, device, labels or batch norm; None where it is not said."""

    kind: str
    what: str
    values: Mapping[str, Any]


def counterparts(run: Run, baseline: Run) -> dict[str, EvaluatorScores]:
    """Return for each evaluator of a run, by stage, the baseline's of the same component: of the same options or else name.

    None is taken twice.
    """
    pairs = [
        (theirs, ours)
        for theirs in run.scores.index.evaluators
        for ours in baseline.scores.index.evaluators
        if theirs.component == ours.component
    ]
    nearest = sorted(pairs, key=lambda p: (p[0].options != p[1].options, p[0].stage != p[1].stage))
    made: dict[str, EvaluatorScores] = {}
    for theirs, ours in nearest:
        if theirs.stage not in made and not any(ours is taken for taken in made.values()):
            made[theirs.stage] = ours
    return made


def lines_of(runs: Sequence[Run], baseline: Run, shows: Callable[[Run, MetricRow], bool]) -> tuple[Line, ...]:
    """Return the numbers of all runs, the baseline's first; where seeds were repeated, their mean."""
    lines: dict[str, Line] = {}
    for run in [baseline, *(run for run in runs if run is not baseline)]:
        places = counterparts(run, baseline)
        for name, row in _means(run.rows):
            if not shows(run, row):
                continue
            place = places.get(name)
            evaluator = place.stage if place is not None else name
            identity = (row.stage, row.metric, evaluator, row.split, dict(row.conditions))
            for again in range(len(run.rows)):
                line = lines.setdefault(json.dumps([*identity, again], sort_keys=True, default=str), Line(*identity))
                if run.label not in line.values:
                    line.values[run.label] = row
                    break
    return tuple(lines.values())


def _means(rows: Sequence[tuple[str, MetricRow]]) -> Iterator[tuple[str, MetricRow]]:
    """Yield the rows, of several seeds only the mean where there is one; what is one seed's alone keeps its name."""
    groups: dict[str, list[tuple[str, MetricRow]]] = {}
    for name, row in rows:
        key = json.dumps([name, row.stage, row.method, row.split, row.metric, dict(row.conditions)], default=str)
        groups.setdefault(key, []).append((name, row))
    for same in groups.values():
        means = [entry for entry in same if any(str(v).startswith("mean of ") for v in entry[1].repeats.values())]
        yield from means or same


def alone(runs: Sequence[Run], lines: Sequence[Line]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the models that do not stand in all runs, and the labels of those in which they do."""
    where: dict[str, dict[str, None]] = {}
    for line in lines:
        where.setdefault(line.stage, {}).update(dict.fromkeys(line.values))
    return tuple((stage, tuple(labels)) for stage, labels in where.items() if len(labels) < len(runs))


# ---- what differs


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by dotted path.

    >>> flat({"stages": {"maml": {"steps": 5}}, "seed": 0})
    {'stages.maml.steps': 5, 'seed': 0}
    """
    if not isinstance(value, Mapping) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= flat(item, f"{path}.{name}" if path else str(name))
    return found


def differences(runs: Sequence[Run], lines: Sequence[Line]) -> Iterator[Difference]:
    """Yield what differs: options, versions, the device, and what each model of the same name saw and how it was normed."""
    specs = {run.label: flat({k: v for k, v in run.spec.items() if k not in NOT_OPTIONS}) for run in runs}
    yield from _apart("option", specs)
    yield from _apart("version", {run.label: dict(run.versions) for run in runs})
    yield from _apart("device", {run.label: {"device": run.device} for run in runs})
    for kind, fact in (("labels", "seen"), ("batch norm", "norm")):
        for stage in dict.fromkeys(line.stage for line in lines):
            told: dict[str, str] = {}
            for line in lines:
                if line.stage == stage:
                    for label, row in line.values.items():
                        told.setdefault(label, getattr(row, fact))
            if len(set(told.values())) > 1:
                yield Difference(kind, stage, {run.label: told.get(run.label) for run in runs})


def _apart(kind: str, facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    for path in dict.fromkeys(path for found in facts.values() for path in found):
        values = {label: found.get(path) for label, found in facts.items()}
        if len({json.dumps(value, default=str) for value in values.values()}) > 1:
            yield Difference(kind, path, values)
