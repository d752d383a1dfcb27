"""Read a pipeline file and check all that can be known before work starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewcore import yaml12
from fewcore.cells import LOOPS, Cell, Spec, cells, put
from fewcore.components import Offer
from fewcore.errors import FewcoreError, PipelineError, Problem, did_you_mean
from fewcore.heading import KEYS, check_heading, check_rows
from fewcore.kinds import KINDS, RESERVED, SPLITS, STAGE_KINDS
from fewcore.options import read_options
from fewcore.rules import check_evaluators, check_rules
from fewcore.wiring import Wired, wire

if TYPE_CHECKING:
    from fewcore.plugins import Registry

STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SHIPPED = Path(__file__).parent / "pipelines"


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline: a component with its options, and what it asks of others, before wiring."""

    name: str
    offer: Offer
    cls: type[Any]
    component: Any
    split: str
    asked: Any
    seed: int | None

    @property
    def kind(self) -> str:
        """The kind of the component."""
        return self.offer.kind


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline: the plain specification, and for each cell its wired stages in the order of running."""

    name: str
    spec: Spec
    cells: tuple[tuple[Cell, tuple[Wired, ...]], ...]

    @property
    def stages(self) -> tuple[Wired, ...]:
        """The stages of the first cell."""
        return self.cells[0][1]


class _Reader:
    """Collects the problems of one file; `document` tells where each stands."""

    def __init__(self, document: yaml12.Document, registry: Registry) -> None:
        self.document = document
        self.registry = registry
        self.problems: dict[str, Problem] = {}
        self.offers: dict[tuple[str, str], tuple[Offer, type[Any]] | FewcoreError] = {}

    def add(self, path: str, found: str, expected: str = "", suggestion: str = "") -> None:
        """Note a problem once."""
        problem = self.document.problem(path, found, expected, suggestion)
        self.problems.setdefault(str(problem), problem)

    def stage(self, name: str, said: Any) -> Stage | None:
        """Check one stage: its name, its kind and component, its options."""
        path = f"stages.{name}"
        if not STAGE_NAME.fullmatch(name):
            self.add(path, f"the stage name '{name}'", "letters, digits, - and _")
        if not isinstance(said, dict):
            self.add(path, f"'{said}'", f"a mapping such as {{{name}: {{partitioner: kmeans}}}}")
            return None
        kinds = [key for key in said if key in STAGE_KINDS]
        if len(kinds) != 1:
            near = [hint for key in said if key not in RESERVED and (hint := did_you_mean(key, STAGE_KINDS))]
            behind = [KINDS[key].usage(said[key]) for key in said if key in KINDS and not KINDS[key].is_stage]
            near += [f"type fewcore run PIPELINE {usage}" for usage in behind]
            found = "no kind of component" if not kinds else f"{len(kinds)} kinds ({', '.join(kinds)})"
            self.add(path, found, f"one of {', '.join(STAGE_KINDS)}", near[0] if near else "")
            return None
        loaded = self.component(path, kinds[0], said[kinds[0]])
        split = said.get("split", "train")
        if split not in SPLITS:
            self.add(f"{path}.split", f"'{split}'", f"one of {', '.join(SPLITS)}", did_you_mean(str(split), SPLITS))
        seed = said.get("seed")
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
            self.add(f"{path}.seed", f"'{seed}'", "a whole number")
        if loaded is None:
            return None
        component, problems = read_options(loaded[1], {key: v for key, v in said.items() if key not in RESERVED})
        for problem in problems:
            self.add(
                f"{path}.{problem.where}" if problem.where else path,
                problem.found,
                problem.expected,
                problem.suggestion,
            )
        if component is None:
            return None
        return Stage(name, *loaded, component, split, said.get("from"), seed)

    def cell(self, cell: Cell) -> tuple[Wired, ...]:
        """Check the stages of a cell and wire those that are good."""
        check_rows(cell.spec, self.add)
        stages = {name: self.stage(name, said) for name, said in cell.spec["stages"].items()}
        good = {name: stage for name, stage in stages.items() if stage is not None}
        broken = frozenset(stages) - frozenset(good)
        wired = wire(good, self.add, broken)
        if not broken:
            check_rules(wired, self.add)
        return wired

    def component(self, path: str, kind: str, name: Any) -> tuple[Offer, type[Any]] | None:
        """Find and import a component; note why it cannot be had."""
        if (kind, str(name)) not in self.offers:
            try:
                offer = self.registry.find(kind, str(name))
                self.offers[kind, str(name)] = (offer, offer.load())
            except FewcoreError as error:
                self.offers[kind, str(name)] = error
        found = self.offers[kind, str(name)]
        if not isinstance(found, FewcoreError):
            return found
        for problem in found.problems:
            self.add(f"{path}.{kind}", problem.found, problem.expected, problem.suggestion)
        return None


def check(document: yaml12.Document, registry: Registry) -> Pipeline:
    """Return the checked pipeline of a document.

    Raises:
        PipelineError: with every problem of the file, each with line and column, found, expected and what to type.

    """
    reader = _Reader(document, registry)
    spec = check_heading(document.data, reader.add)
    harmless = ("skip.", "select.by")
    wheres = [p.where for p in reader.problems.values() if not p.where.startswith(harmless)]
    if any(where.partition(".")[0] in LOOPS for where in wheres):
        # What the loops make of the file cannot be known; the stages as they stand can be checked all the same.
        spec = {key: value for key, value in spec.items() if key not in LOOPS}
    wired: list[tuple[Cell, tuple[Wired, ...]]] = []
    if spec.get("stages") and isinstance(spec["stages"], dict):
        try:
            wired = [(cell, reader.cell(cell)) for cell in cells(spec)]
        except PipelineError as error:
            for problem in error.problems:
                reader.add(problem.where, problem.found, problem.expected, problem.suggestion)
    if not reader.problems:
        check_evaluators([stages for _, stages in wired], reader.add)
    if reader.problems:
        raise PipelineError(*sorted(reader.problems.values(), key=lambda p: (p.line or 0, p.column or 0)))
    return Pipeline(str(spec.get("name") or "pipeline"), spec, tuple(wired))


def find_file(name: str) -> Path:
    """Return the path of a pipeline: a file, or the name of one that is shipped with fewcore.

    Raises:
        PipelineError: there is neither.

    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        inside = path / "pipeline.yaml"
        raise PipelineError(Problem(name, "a folder", "a pipeline file", f"type {inside}" if inside.is_file() else ""))
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    problem = Problem(
        name, "no such file", f"a pipeline file, or one of {', '.join(shipped)}", did_you_mean(name, shipped)
    )
    raise PipelineError(problem)


def load(
    path: Path,
    registry: Registry,
    *,
    overrides: Mapping[str, Any] | None = None,
    grid: Mapping[str, list[Any]] | None = None,
) -> Pipeline:
    """Read and check a pipeline file. `overrides` replace values at dotted paths; `grid` adds axes to the matrix.

    Raises:
        PipelineError: the file or an override is wrong; all problems at once, the file's name in front.

    """
    try:
        document = yaml12.read(path.read_text(encoding="utf-8"))
        spec = document.data
        if isinstance(spec, dict):
            for dotted, value in (overrides or {}).items():
                spec = _override(spec, dotted, value)
            if grid:
                axes = spec.get("matrix") or {}
                if isinstance(axes, list):
                    raise PipelineError("--grid: the file's matrix is a list of cells; expected a mapping of axes")
                spec = {**spec, "matrix": {**axes, **grid}}
            _check_overrides(spec, overrides or {})
        pipeline = check(yaml12.Document(spec, document.marks), registry)
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: cannot be read: {error}; expected a text file in UTF-8") from error
    except PipelineError as error:
        raise PipelineError(*error.problems, title=str(path)) from error
    named = pipeline.name if "name" in pipeline.spec else path.stem
    return Pipeline(named, pipeline.spec, pipeline.cells)


def _override(spec: Spec, dotted: str, value: Any) -> Spec:
    """Put one `--set`; `seed` also ends a repeat over seeds."""
    top = dotted.partition(".")[0]
    if top not in KEYS:
        problem = Problem(dotted, f"unknown key '{top}'", f"one of {', '.join(KEYS)}", did_you_mean(top, KEYS))
        raise PipelineError(problem)
    if dotted == "seed" and "seed" in (spec.get("repeat") or {}):
        spec = {**spec, "repeat": {k: v for k, v in spec["repeat"].items() if k != "seed"}}
    axis = dotted.partition(".")[2]
    if top in ("matrix", "repeat") and axis and isinstance(spec.get(top) or {}, dict):
        return {**spec, top: {**(spec.get(top) or {}), axis: value}}  # an axis is a dotted path of its own
    return put(spec, dotted, value)


def _check_overrides(spec: Spec, overrides: Iterable[str]) -> None:
    """Refuse each `--set` of a value in whose place every cell puts one of its own: it would change nothing."""
    problems = []
    for loop in ("matrix", "repeat"):
        said = spec.get(loop) or {}
        parts = said if isinstance(said, list) and said else [said]
        axes = set.intersection(*(set(part) if isinstance(part, dict) else set() for part in parts))
        for path in overrides:
            if axis := next((axis for axis in axes if path == axis or path.startswith(f"{axis}.")), ""):
                found = f"a value in whose place the {loop} puts others ({axis})"
                rest = path.removeprefix(axis).lstrip(".")
                suggestion = f"type --set '{loop}.{axis}=[...]'"
                suggestion = f"in the file, change {rest} in each value of {loop}" if rest else suggestion
                problems.append(Problem(f"--set {path}", found, "one that stays", suggestion))
    if problems:
        raise PipelineError(*problems)
