"""`--track NAME:OPTION=VALUE,...` read as trackers with options, and what of a pipeline a tracker is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from fewcore.chosen import read_chosen
from fewcore.errors import PipelineError, Problem

if TYPE_CHECKING:
    from fewcore.pipeline import Pipeline
    from fewcore.plugins import Registry
    from fewcore.wiring import Wired

FILE_NAME = re.compile(r"""[/\\"]|\.[A-Za-z]""")
"""What tells the name of a file or a folder from the name of a model."""


def read_trackers(said: tuple[str, ...], registry: Registry) -> dict[str, Any]:
    """Return the trackers that `--track` names, each with its options, by name.

    >>> from fewcore.plugins import load_registry
    >>> read_trackers(("tensorbord",), load_registry())  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    fewcore.errors.PipelineError: --track tensorbord: no tracker named 'tensorbord'; ... (did you mean 'tensorboard'?)

    Raises:
        PipelineError: a tracker is not installed, an option is wrong, or one is named twice; all problems at once.

    """
    trackers: dict[str, Any] = {}
    problems: list[Problem] = []
    for text in said:
        try:
            name, tracker = read_chosen("--track", "tracker", text, "mlflow:experiment=chest", registry)
        except PipelineError as error:
            problems += error.problems
            continue
        if any(registry.find("tracker", other) is registry.find("tracker", name) for other in trackers):
            problems.append(Problem(f"--track {name}", "named twice", "each tracker once"))
        trackers[name] = tracker
    if problems:
        raise PipelineError(*problems)
    return trackers


def facts_of(pipeline: Pipeline) -> dict[str, Any]:
    """Return what a tracker is told of a pipeline: its seed, components and their options, axes left out.

    Of the options, numbers, yes and no, and words; the names of files and folders, and all that a data set is told in
    text, stay here.
    """
    from fewcore import __version__

    axes = {path for cell in pipeline.cells for path in cell[0].axes}
    facts: dict[str, Any] = {"fewcore": __version__, "seed": pipeline.spec.get("seed", 0)}
    for stage in pipeline.stages:
        facts[stage.name] = stage.offer.full_name
        for field in fields(stage.component):
            value = getattr(stage.component, field.name)
            if f"stages.{stage.name}.{field.name}" not in axes and _may_be_told(stage, value):
                facts[f"{stage.name}.{field.name}"] = list(value) if isinstance(value, tuple) else value
    return {name: value for name, value in facts.items() if name not in axes}


def hidden_labels(pipeline: Pipeline) -> dict[str, str]:
    """Return what stands for the values of axes, and the labels of cells, that name a file or a folder."""
    hidden: dict[str, str] = {}
    for cell, stages in pipeline.cells:
        texts = {text for stage in stages if stage.kind == "dataset" for text in _texts(vars(stage.component))}
        said = dict(cell.axes)
        for path, value in cell.axes.items():
            if isinstance(value, str) and (value in texts or FILE_NAME.search(value)):
                said[path] = hidden.setdefault(value, f"value {len(hidden) + 1}")
        if said != cell.axes:
            hidden[cell.label] = ", ".join(f"{path} {value}" for path, value in said.items())
    return hidden


def _may_be_told(stage: Wired, value: Any) -> bool:
    texts = list(_texts(value))
    simple = isinstance(value, bool | int | float | str | tuple)
    return simple and not any(FILE_NAME.search(text) for text in texts) and not (texts and stage.kind == "dataset")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str | PurePath):
        yield str(value)
    elif isinstance(value, Mapping | list | tuple):
        for child in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(child)
