"""Run a pipeline: every stage of every cell, the choice on validation, the predictions, the evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fewcore.blame import blame
from fewcore.cells import Cell
from fewcore.errors import FewcoreError, Interrupted, PipelineError, Problem, RanksApart
from fewcore.metrics import MetricReport, lower_is_better
from fewcore.nodes import Node
from fewcore.outcomes import MODELS, Judged, counted_once, outcomes_of
from fewcore.pipeline import Pipeline
from fewcore.session import NOT_STORED, Session
from fewcore.wiring import CLASSES, Wired
from fewcore.workers.work import Work, predictions, results

if TYPE_CHECKING:
    from fewcore.workers.jobs import Jobs

Group = tuple[str, str, str]
"""A model's stage with the matrix and repeat values, as JSON, among which `select` chooses one candidate."""


@dataclass
class Failure:
    """A stage that failed, in one cell, and with what."""

    stage: str
    cell: str
    error: FewcoreError

    def __str__(self) -> str:
        return f"{self.stage}{f' ({self.cell})' if self.cell else ''}: {self.error}"


@dataclass
class Result:
    """What a run made: its nodes by cell, the reports of its evaluators, the candidates of `select`, the failures.

    `models` are the models that met the test rows: all that are there, or those that `select` chose.

    `status` maps a node's key to `computed`, `reused`, `failed` or `missing`.
    """

    nodes: list[dict[str, Node]] = field(default_factory=list)
    reports: dict[str, MetricReport] = field(default_factory=dict)
    outcomes: list[Judged] = field(default_factory=list)
    models: list[Node] = field(default_factory=list)
    candidates: list[dict[str, Any]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    status: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 where all went well, else the code of the first failure."""
        return self.failures[0].error.exit_code if self.failures else 0


class Runner:
    """Runs the cells of one pipeline in one session. A stage that fails is noted; what does not need it goes on.

    `say` is told of each failure at once, since what goes on may take hours. `jobs`, where given, makes results and
    predictions ahead, by several workers; the runner then finds them in the store.
    """

    def __init__(
        self, pipeline: Pipeline, session: Session, say: Callable[[str], object] = str, jobs: Jobs | None = None
    ) -> None:
        self.pipeline = pipeline
        self.session = session
        self.say = say
        self.jobs = jobs
        self.result = Result()
        self._told: set[tuple[str, str]] = set()

    def run(self) -> Result:
        """Run everything and return what was made.

        Raises:
            Interrupted: the run was stopped; what is finished is kept, and running again goes on.
            PipelineError: the file does not fit the data.

        """
        self.make()
        chosen = self._select() if self.pipeline.spec.get("select") else None
        models = [node for nodes in self.result.nodes for node in self._models(nodes)]
        self.result.models = [node for node in models if chosen is None or self._is_chosen(node, chosen)]
        if self.jobs is not None and chosen is not None:
            self.jobs.make(predictions(self.session, self.result.models, "test"), self._tell)
        judged = [entry for node in self.result.models for entry in self._outcomes(node, "test")]
        self.result.outcomes = counted_once(judged)
        for stage in self._evaluators():
            if report := self._evaluate(stage, self.result.outcomes):
                self.result.reports[stage.name] = report
        return self.result

    def make(self) -> None:
        """Make the stages of all cells; ranks other than the first do no more than this."""
        plans: Iterable[dict[str, Node] | FewcoreError] = (self._planned(*cell) for cell in self.pipeline.cells)
        if self.jobs is not None:
            plans = list(plans)
            self._make_ahead(self.jobs, [plan for plan in plans if not isinstance(plan, FewcoreError)])
        for (cell, _), plan in zip(self.pipeline.cells, plans, strict=True):
            if isinstance(plan, FewcoreError):
                self._failed("data", cell.label, plan)
                continue
            self.result.nodes.append(plan)
            for node in plan.values():
                self._ensure(node)
                self._note(node)

    def _make_ahead(self, jobs: Jobs, cells: list[dict[str, Node]]) -> None:
        """Let workers make all stages, and what is predicted before anything is chosen."""
        nodes = [node for cell in cells for node in cell.values()]
        split, models = "test", [node for node in nodes if node.stage.kind in MODELS]
        if self.pipeline.spec.get("select"):
            split, models = "validation", [n for found in _candidates(cells).values() for n in found.values()]
        work = [*results(self.session, nodes), *predictions(self.session, models, split)]
        jobs.make(work, self._tell)

    def _planned(self, cell: Cell, stages: tuple[Wired, ...]) -> dict[str, Node] | FewcoreError:
        try:
            return self.session.plan(cell, stages)
        except (Interrupted, PipelineError, RanksApart):
            raise
        except FewcoreError as error:
            return error

    def _ensure(self, node: Node) -> None:
        status = self.result.status
        if node.key in status and status[node.key] != "reused":
            return
        sources = [name for names in node.stage.inputs.values() for name in names if name != CLASSES]
        if any(status.get(node.others[name].key) in ("failed", "missing") for name in sources):
            status[node.key] = "missing"
            return
        # Where all ranks work together, others may wait for the one that failed: all have to end.
        fatal = self.session.together(node)
        status[node.key] = self._guarded(node, lambda: self._made(node), fatal=fatal) or "failed"

    def _made(self, node: Node) -> str:
        """See that a node's result is there. Data sets are made while the run is planned, and computed all the same."""
        self.session.ensure(node)
        return "computed" if any(key == node.key for _, key in self.session.computed) else "reused"

    def _guarded(self, node: Node, action: Any, *, fatal: bool = False) -> Any:
        """Return what `action` gives, or None where it fails; the failure is noted, or ends the run where it is `fatal`."""
        try:
            with blame(node.title, node.stage.offer, self.session.tracebacks):
                return action()
        except (Interrupted, RanksApart):
            raise
        except FewcoreError as error:
            if fatal:
                raise
            self._failed(node.stage.name, node.cell.label, error)
            return None

    def _failed(self, stage: str, cell: str, error: FewcoreError) -> None:
        failure = Failure(stage, cell, error)
        self.result.failures.append(failure)
        if (stage, str(error)) not in self._told:  # the same in every fold is told once
            self._told.add((stage, str(error)))
            self.say(f"failed: {failure}")

    def _tell(self, work: Work, error: FewcoreError) -> None:
        """Tell at once of what failed in a worker. It is noted when its turn comes."""
        stage = work.node.stage.name
        self._told.add((stage, str(error)))
        self.say(f"failed: {Failure(stage, work.node.cell.label, error)}")

    def _note(self, node: Node) -> None:
        if self.result.status[node.key] in ("computed", "reused") and node.stage.kind not in NOT_STORED:
            self.session.store.note_recipe(self.pipeline.name, node.cell.label, node.stage.name, dict(node.recipe))

    def _models(self, nodes: Mapping[str, Node]) -> list[Node]:
        good = ("computed", "reused")
        return [n for n in nodes.values() if n.stage.kind in MODELS and self.result.status[n.key] in good]

    def _evaluators(self) -> list[Wired]:
        return [stage for stage in self.pipeline.stages if stage.kind == "evaluator"]

    def _outcomes(self, node: Node, split: str) -> list[Judged]:
        return self._guarded(node, lambda: list(outcomes_of(self.session, node, split))) or []

    def _evaluate(self, stage: Wired, judged: list[Judged]) -> MetricReport | None:
        wanted = stage.inputs["outcomes"]
        outcomes = tuple(entry.outcome for entry in judged if entry.outcome.stage in wanted)
        run = self.session.run_for_evaluator(stage)
        try:
            with blame(stage.name, None, self.session.tracebacks):
                report: MetricReport = stage.component.evaluate(outcomes, run)
        except Interrupted:
            raise
        except FewcoreError as error:
            self._failed(stage.name, "", error)
            return None
        return report

    # ---- choice on validation rows

    def _select(self) -> dict[Group, str]:
        """Return the winner's `select` values for each model, matrix cell and repeat; note all candidates."""
        groups = _candidates(self.result.nodes)
        return {group: self._winner(group, nodes) for group, nodes in groups.items()}

    def _winner(self, group: Group, nodes: Mapping[str, Node]) -> str:
        """Return the `select` values of the best of one model's candidates; nothing where none could be judged."""
        scores = {axes: self._score(node) for axes, node in nodes.items() if self._models({"": node})}
        scores = {axes: score for axes, score in scores.items() if np.isfinite(score)}
        best = max(scores, key=lambda axes: scores[axes], default="")
        for axes, score in scores.items():
            conditions = {**json.loads(group[1]), **json.loads(group[2]), **json.loads(axes)}
            chosen = {"score": score, "chosen": axes == best}
            self.result.candidates.append({"stage": group[0], "conditions": conditions, **chosen})
        if not scores and (good := [node for node in nodes.values() if self._models({"": node})]):
            wanted = ", ".join(map(str, self.pipeline.spec["select"]["by"]))
            problem = Problem("select.by", f"no candidate makes {wanted} on validation", "metrics of the evaluators")
            self._failed(group[0], good[0].cell.label, PipelineError(problem))
        return best

    def _score(self, node: Node) -> float:
        """Return the mean, on validation, of those of the named metrics that a model makes; NaN where it makes none.

        A metric of which less is better, such as `mae`, counts with a minus sign.
        """
        judged = self._outcomes(node, "validation")
        values = []
        for choice in self.pipeline.spec["select"]["by"]:
            name, _, metric = str(choice).partition(".")
            stage = next(stage for stage in self._evaluators() if stage.name == name)
            report = self._evaluate(stage, judged) if judged else None
            rows = report.rows if report is not None else ()
            made = [row.value for row in rows if row.metric == metric and row.stage == node.stage.name]
            sign = -1.0 if lower_is_better(metric) else 1.0
            values += [sign * float(np.mean(made))] if made else []
        return float(np.mean(values)) if values else float("nan")

    def _is_chosen(self, node: Node, winners: Mapping[Group, str]) -> bool:
        group = _group(node)
        return group not in winners or winners[group] == _axes(node.cell.select)


def _candidates(cells: Iterable[Mapping[str, Node]]) -> dict[Group, dict[str, Node]]:
    """Return the models among which `select` chooses, by their `select` values.

    A model on which no axis of `select` acts is no candidate: it stands in every cell under the same key.
    """
    found: dict[Group, dict[str, Node]] = {}
    for nodes in cells:
        for node in nodes.values():
            if node.stage.kind in MODELS:
                found.setdefault(_group(node), {})[_axes(node.cell.select)] = node
    return {group: nodes for group, nodes in found.items() if len({n.key for n in nodes.values()}) > 1}


def _axes(axes: Mapping[str, Any]) -> str:
    return json.dumps(dict(axes), sort_keys=True)


def _group(node: Node) -> Group:
    return node.stage.name, _axes(node.cell.matrix), _axes(node.cell.repeat)
