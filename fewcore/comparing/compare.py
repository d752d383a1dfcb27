"""Runs side by side: their numbers, paired tests where they were judged on the same, why not where they were not, what differs.

The tests are the evaluators' own `paired_tests`, made from what each run keeps of every task or image (`scores.npz`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fewcore.comparing.identity import why_apart
from fewcore.comparing.lines import Difference, Line, alone, counterparts, differences, lines_of
from fewcore.comparing.runs import Run
from fewcore.comparing.scores import EvaluatorScores, Judgement
from fewcore.errors import FewcoreError, PipelineError, Problem, did_you_mean
from fewcore.grouping import corrected
from fewcore.metrics import Comparison, MetricRow, UnitScores, replaces_stage
from fewcore.options import read_options

if TYPE_CHECKING:
    from fewcore.components import Offer
    from fewcore.plugins import Registry


@dataclass(frozen=True)
class Choice:
    """Which models are compared: all, those of some `stages`, or `pairs` of (model of the baseline, model of the others)."""

    stages: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()

    def takes(self, ours: UnitScores, theirs: UnitScores) -> bool:
        """Return whether a model of the baseline and one of another run are to be compared, at equal conditions."""
        if self.pairs:
            return any(_is_called(ours, a) and _is_called(theirs, b) for a, b in self.pairs)
        return ours.stage == theirs.stage and (not self.stages or any(_is_called(theirs, s) for s in self.stages))

    def shows(self, row: MetricRow, is_baseline: bool) -> bool:
        """Return whether a number is shown."""
        if self.pairs:
            return any(row.stage == (a if is_baseline else b).partition(" [")[0] for a, b in self.pairs)
        return not self.stages or row.stage in {name.partition(" [")[0] for name in self.stages}


def _is_called(units: UnitScores, name: str) -> bool:
    return name in (units.stage, units.name)


@dataclass(frozen=True, eq=False)
class Pair:
    """A paired test of two runs; in `comparison` the model of `run` stands first, that of the baseline second."""

    run: str
    baseline: str
    evaluator: str
    comparison: Comparison


@dataclass(frozen=True)
class Refusal:
    """Models of two runs that are not tested in pairs, and why."""

    run: str
    baseline: str
    evaluator: str
    models: tuple[str, ...]
    reason: str


@dataclass(frozen=True, eq=False)
class RunComparison:
    """Everything that a comparison of runs tells; `alone` names models that stand in some of the runs only."""

    runs: tuple[Run, ...]
    baseline: Run
    lines: tuple[Line, ...]
    pairs: tuple[Pair, ...]
    refusals: tuple[Refusal, ...]
    alone: tuple[tuple[str, tuple[str, ...]], ...]
    differences: tuple[Difference, ...]


def compare(runs: Sequence[Run], baseline: Run, registry: Registry, choice: Choice | None = None) -> RunComparison:
    """Return the comparison of all runs with the baseline, Holm's correction spanning all of its tests.

    Raises:
        PipelineError: a model that is asked for stands in no run.

    """
    choice = choice or Choice()
    _check_choice(runs, baseline, choice)
    found: list[Pair] = []
    refused: dict[tuple[str, str, str], list[str]] = {}
    for run in runs:
        if run is not baseline:
            for outcome in _compared(run, baseline, registry, choice):
                if isinstance(outcome, Pair):
                    found.append(outcome)
                else:
                    names = refused.setdefault((outcome.run, outcome.evaluator, outcome.reason), [])
                    names += [name for name in outcome.models if name not in names]
    family = corrected(pair.comparison for pair in found)
    pairs = tuple(Pair(p.run, p.baseline, p.evaluator, c) for p, c in zip(found, family, strict=True))
    refusals = tuple(Refusal(r, baseline.label, e, tuple(names), why) for (r, e, why), names in refused.items())
    lines = lines_of(runs, baseline, lambda run, row: choice.shows(row, run is baseline))
    return RunComparison(
        tuple(runs), baseline, lines, pairs, refusals, alone(runs, lines), tuple(differences(runs, lines))
    )


def _check_choice(runs: Sequence[Run], baseline: Run, choice: Choice) -> None:
    """Refuse names of models that no run has."""

    def names(some: Sequence[Run]) -> dict[str, None]:
        units = [j.units for run in some for found in run.scores.judgements.values() for j in found]
        return dict.fromkeys(name for one in units for name in (one.stage, one.name))

    others = [run for run in runs if run is not baseline]
    wanted = [("--stage", name, names(runs)) for name in choice.stages]
    wanted += [("--pair", first, names([baseline])) for first, _ in choice.pairs]
    wanted += [("--pair", second, names(others)) for _, second in choice.pairs]
    problems = [
        Problem(option, f"no model '{name}'", f"one of {', '.join(known) or 'none'}", did_you_mean(name, known))
        for option, name, known in wanted
        if name not in known
    ]
    if problems:
        raise PipelineError(*problems)


def _compared(run: Run, baseline: Run, registry: Registry, choice: Choice) -> Iterator[Pair | Refusal]:
    """Yield the tests of one run against the baseline, and what cannot be tested."""
    places = counterparts(run, baseline)
    for theirs in run.scores.index.evaluators:
        ours = places.get(theirs.stage)
        if ours is not None and not (theirs.models and ours.models):
            names = tuple(dict.fromkeys(row.stage for stage, row in run.rows if stage == theirs.stage))
            reason = f"{theirs.component} keeps no scores of tasks or images, from which tests could be made"
            yield Refusal(run.label, baseline.label, ours.stage, names, reason)
            continue
        every = [
            (b, a)
            for b in run.scores.judgements[theirs.stage]
            for a in (baseline.scores.judgements[ours.stage] if ours is not None else ())
            if choice.takes(a.units, b.units) and _same_place(a.units, b.units, choice)
        ]
        if ours is None or not every:
            continue
        try:
            component, offer = _evaluator(ours, theirs, registry)
        except FewcoreError as error:
            yield Refusal(run.label, baseline.label, ours.stage, tuple(_told(b.units) for b, _ in every), str(error))
            continue
        for b, a in every:
            yield from _tested(component, offer, (run, b), (baseline, a), ours.stage)


def _evaluator(ours: EvaluatorScores, theirs: EvaluatorScores, registry: Registry) -> tuple[Any, Offer]:
    """Return the evaluator of both runs, built again from the options that they keep.

    Raises:
        FewcoreError: it is not installed, its options differ or fit no more, or it makes no tests of two runs.

    """
    offer = registry.find("evaluator", ours.component)
    cls = offer.load()
    first, second = (_options(cls, one) for one in (ours, theirs))
    if first != second:
        apart = [name for name in ours.options if ours.options[name] != theirs.options.get(name)]
        told = ", ".join(f"{n} {json.dumps(ours.options[n])} and {json.dumps(theirs.options.get(n))}" for n in apart)
        raise PipelineError(f"judged with other options: {told}; run one again with those of the other")
    if not hasattr(first, "paired_tests"):
        raise PipelineError(f"the evaluator {offer.full_name} makes no paired tests")
    return first, offer


def _options(cls: type[Any], one: EvaluatorScores) -> Any:
    component, problems = read_options(cls, one.options)
    if component is None:
        told = "; ".join(map(str, problems))
        raise PipelineError(f"judged by {one.component} {one.version}, whose options are others here: {told}")
    return component


def _same_place(ours: UnitScores, theirs: UnitScores, choice: Choice) -> bool:
    """Return whether two models agree in every condition that both have; what was put into a stage's place may be chosen."""
    a, b = ours.facts, theirs.facts
    free = {axis for axis in {*a} & {*b} if choice.pairs and replaces_stage(axis)}
    return ours.split == theirs.split == "test" and all(a[axis] == b[axis] for axis in ({*a} & {*b}) - free)


def _told(units: UnitScores) -> str:
    """Return a model with its conditions, for people."""
    facts = {k: v for k, v in units.facts.items() if not replaces_stage(k)}
    return f"{units.name} ({', '.join(f'{key} {value}' for key, value in facts.items())})" if facts else units.name


def _tested(
    component: Any, offer: Offer, theirs: tuple[Run, Judgement], ours: tuple[Run, Judgement], evaluator: str
) -> Iterator[Pair | Refusal]:
    """Yield the tests of one model against the baseline's, or why there are none."""
    (run, b), (baseline, a) = theirs, ours
    places = (run.label, baseline.label, evaluator)
    reason = why_apart(a.on, b.on)
    if reason and len(a.units) != len(b.units):
        what = "tasks" if "tasks" in a.on else "images"
        reason += f" ({len(a.units):,} and {len(b.units):,} {what})"
    if not reason and not _fit(a.units, b.units):
        reason = "their scores do not fit together: found arrays of other names or lengths"
    if reason:
        yield Refusal(*places, (_told(b.units),), reason)
        return
    conditions = {k: v for k, v in {**a.units.facts, **b.units.facts}.items() if not replaces_stage(k)}
    try:
        with np.errstate(all="ignore"):
            tests = component.paired_tests(b.units, a.units)
    except FewcoreError as error:
        yield Refusal(*places, (_told(b.units),), str(error))
        return
    except Exception as error:  # the component is a plugin's, and the numbers may be a stranger's
        found = f"{offer.full_name} cannot read the scores ({type(error).__name__}: {error})"
        yield Refusal(*places, (_told(b.units),), found)
        return
    for metric, test in tests:
        facts = (test.difference, test.ci95, test.p, test.p, test.n, test.test, conditions)
        yield Pair(*places, Comparison(metric, b.units.name, a.units.name, *facts))


def _fit(first: UnitScores, second: UnitScores) -> bool:
    return len(first) == len(second) and {n: a.ndim for n, a in first.arrays.items()} == {
        n: a.ndim for n, a in second.arrays.items()
    }
