"""Wire the stages of a cell by the names of what their verbs ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewcore.components import Offer
from fewcore.errors import did_you_mean
from fewcore.kinds import INPUTS, KINDS

if TYPE_CHECKING:
    from fewcore.pipeline import Stage

CLASSES = "<true classes>"
"""Stands for the partition of the true classes, which is always there on validation and test."""

ROW_INPUTS = ("images", "validation", "outcomes")

Report = Callable[..., None]


@dataclass(frozen=True)
class Parameter:
    """One input that a verb asks for: `optional` has a default, `many` is a tuple, `nullable` may be None."""

    name: str
    optional: bool
    many: bool
    nullable: bool


@dataclass(frozen=True)
class Wired:
    """A stage with its inputs: parameter -> names of the stages that fill it.

    `data` is the data set whose rows the stage works on, or '' where it has none. `vectors` names the embedder whose
    vectors stand in for images.
    """

    name: str
    offer: Offer
    component: Any
    split: str
    seed: int | None
    parameters: tuple[Parameter, ...]
    inputs: Mapping[str, tuple[str, ...]]
    data: str
    vectors: str = ""

    @property
    def kind(self) -> str:
        """The kind of the component."""
        return self.offer.kind


def verb_parameters(cls: type[Any], kind: str) -> tuple[Parameter, ...]:
    """Return what the verb of a component asks for, less `run`; a backbone and a tracker ask for nothing."""
    if kind == "backbone" or not KINDS[kind].is_stage:
        return ()
    found = []
    for parameter in list(inspect.signature(getattr(cls, KINDS[kind].verb)).parameters.values())[1:]:
        if parameter.name != "run":
            annotation = str(parameter.annotation)
            optional = parameter.default is not inspect.Parameter.empty
            found.append(Parameter(parameter.name, optional, annotation.startswith("tuple"), "None" in annotation))
    return tuple(found)


class _Wiring:
    """The wiring of one cell. `report` notes a problem: path, found, expected, suggestion.

    `broken` names stages with problems of their own: what only they could give is not reported a second time. `refused`
    holds the inputs of stages (or '' for all) for which `from:` is wrong: they are not reported a second time either.
    """

    def __init__(self, stages: Mapping[str, Stage], report: Report, broken: frozenset[str]) -> None:
        self.stages = stages
        self.report = report
        self.broken = broken
        self.refused: set[tuple[str, str]] = set()
        self.parameters = {name: verb_parameters(stage.cls, stage.kind) for name, stage in stages.items()}

    def makers(self, stage: Stage, parameter: str) -> list[str]:
        """Return the stages that can fill an input of `stage`, in the order of the file."""
        wanted = INPUTS[parameter]
        split = {"own": stage.split, "validation": "validation", "any": ""}[wanted.split]
        return [
            other.name
            for other in self.stages.values()
            if other.kind in wanted.made_by and other.name != stage.name and (not split or other.split == split)
        ]

    def asked(self, stage: Stage) -> dict[str, tuple[str, ...]]:
        """Return what `from:` says as parameter -> stages; `from: white` is enough where one input fits."""
        path = f"stages.{stage.name}.from"
        said = stage.asked
        named = said.values() if isinstance(said, dict) else [said]
        if said is None or any(name in self.broken for value in named for name in _listed(value)):
            return {}
        parameters = [p.name for p in self.parameters[stage.name]]
        if stage.kind == "embedder" and "images" not in parameters:
            parameters.append("images")
        if not isinstance(said, dict):
            names = _listed(said)
            # What an input is meant for comes before vectors in the place of images.
            fits = self._fitting(names, parameters, lambda p: self.makers(stage, p)) or self._fitting(
                names, parameters, lambda p: self._possible(stage, p)
            )
            if len(fits) != 1:
                found = (
                    f"'{said}' fits {' and '.join(fits)}" if fits else f"'{said}', which fits no input of this stage"
                )
                self.report(
                    path, found, f"from: {{{' or '.join(fits or parameters) or 'nothing'}: STAGE}}", self._near(names)
                )
                self.refused.add((stage.name, ""))
                return {}
            said = {fits[0]: names}
        asked: dict[str, tuple[str, ...]] = {}
        for parameter, value in said.items():
            names = _listed(value)
            if parameter not in parameters:
                expected = (
                    f"one of {', '.join(parameters)}" if parameters else "nothing: this component asks for nothing"
                )
                self.report(f"{path}.{parameter}", "unknown input", expected, did_you_mean(parameter, parameters))
            elif wrong := [n for n in names if n not in self._possible(stage, parameter)]:
                could = ", ".join(self._possible(stage, parameter)) or "no stage of this file"
                self.report(f"{path}.{parameter}", f"'{wrong[0]}' cannot give {parameter}", could, self._near(wrong))
                self.refused.add((stage.name, parameter))
            else:
                asked[parameter] = tuple(names)
        return asked

    def _fitting(self, names: list[Any], parameters: list[str], makers: Callable[[str], list[str]]) -> list[str]:
        return [p for p in parameters if p in INPUTS and all(name in makers(p) for name in names)]

    def _near(self, names: list[Any]) -> str:
        return (
            did_you_mean(str(names[0]), [s for s in self.stages if s not in names])
            if names[0] not in self.stages
            else ""
        )

    def _possible(self, stage: Stage, parameter: str) -> list[str]:
        makers = self.makers(stage, parameter)
        if parameter in ("images", "validation"):
            makers += [s.name for s in self.stages.values() if s.kind == "embedder" and s.name != stage.name]
        return makers

    def fill(self, stage: Stage) -> dict[str, tuple[str, ...]]:
        """Return the inputs of a stage: what `from:` says, and what only one stage can give."""
        asked = self.asked(stage)
        inputs = dict(asked)
        for parameter in self.parameters[stage.name]:
            name = parameter.name
            path = f"stages.{stage.name}"
            if self.refused & {(stage.name, name), (stage.name, "")}:
                continue
            if name not in INPUTS:
                self.report(path, f"its component asks for '{name}'", f"inputs among {', '.join(INPUTS)}")
            elif name == "outcomes":
                inputs.setdefault(name, tuple(self.makers(stage, name)))
            elif name in asked or name == "validation":
                if not parameter.many and len(asked.get(name, ())) > 1:
                    self.report(f"{path}.from.{name}", f"{len(asked[name])} stages", "one stage")
            elif not (parameter.many or parameter.optional):
                self._only(stage, name, inputs)
            elif parameter.many:
                self.report(path, f"{name} must be named", f"from: {{{name}: [{', '.join(self.makers(stage, name))}]}}")
        return inputs

    def _only(self, stage: Stage, name: str, inputs: dict[str, tuple[str, ...]]) -> None:
        makers = self.makers(stage, name)
        if self.broken and len(makers) != 1:
            return
        path = f"stages.{stage.name}"
        if len(makers) == 1:
            inputs[name] = (makers[0],)
        elif makers:
            choice = ", ".join(makers)
            self.report(
                path, f"{name} could come from {choice}", "one of them", f"say which: from: {{{name}: {makers[0]}}}"
            )
        elif name == "partitions" and stage.split != "train":
            inputs[name] = (CLASSES,)
        else:
            made = " or ".join(INPUTS[name].made_by)
            on = f" with split: {INPUTS[name].split}" if INPUTS[name].split == "validation" else ""
            self.report(path, f"it needs {name}, and no stage gives them", f"a stage of the kind {made}{on}")

    def order(self, inputs: Mapping[str, Mapping[str, tuple[str, ...]]]) -> list[str]:
        """Return the stages so that each comes after its inputs; a circle is a problem of the file."""
        done: list[str] = []
        open_ = set()

        def visit(name: str) -> None:
            if name in done or name == CLASSES:
                return
            if name in open_:
                self.report(f"stages.{name}", "its inputs lead back to itself", "stages without a circle")
                return
            open_.add(name)
            for sources in inputs.get(name, {}).values():
                for source in sources:
                    visit(source)
            done.append(name)

        for name in self.stages:
            visit(name)
        return done

    def data_of(self, name: str, inputs: Mapping[str, Mapping[str, tuple[str, ...]]], done: Mapping[str, str]) -> str:
        """Return the data set whose rows a stage works on."""
        stage = self.stages[name]
        if stage.kind == "dataset":
            return name
        for parameter in ("images", "embeddings", "partitions", "tasks", "start", "validation_tasks"):
            for source in inputs[name].get(parameter, ()):
                if done.get(source):
                    return done[source]
        sets = [s.name for s in self.stages.values() if s.kind == "dataset"]
        if len(sets) == 1 or stage.kind in ("evaluator", "backbone"):
            return sets[0] if sets else ""
        advice = ""
        if (CLASSES,) in inputs[name].values():
            labels = f"classes: {{partitioner: labels, split: {stage.split}, from: {{images: {sets[0]}}}}}"
            advice = f"add a stage {labels} and say from: classes"
        elif stage.kind == "embedder":
            advice = f"say which: from: {{images: {sets[0]}}}"
        if advice:
            self.report(f"stages.{name}", f"images could come from {', '.join(sets)}", "one of them", advice)
        return ""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def wire(stages: Mapping[str, Stage], report: Report, broken: frozenset[str] = frozenset()) -> tuple[Wired, ...]:
    """Return the stages of a cell, wired, in an order in which they can run; problems go to `report`."""
    wiring = _Wiring(stages, report, broken)
    if not any(stage.kind == "dataset" for stage in stages.values()):
        if not broken:
            report("stages", "no data set", "a stage such as data: {dataset: digits}")
        return ()
    inputs = {name: wiring.fill(stage) for name, stage in stages.items()}
    order = wiring.order(inputs)
    wired: dict[str, Wired] = {}
    data: dict[str, str] = {}
    for name in order:
        stage = stages[name]
        data[name] = wiring.data_of(name, inputs, data)
        vectors = next((s for s in inputs[name].get("images", ()) if stages[s].kind == "embedder"), "")
        rest = (stage.seed, wiring.parameters[name], inputs[name], data[name], vectors)
        wired[name] = Wired(name, stage.offer, stage.component, stage.split, *rest)
    return tuple(wired[name] for name in order)
