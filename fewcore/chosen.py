"""`NAME:OPTION=VALUE,...` of the command line read as a component that is no stage, with its options."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fewcore import yaml12
from fewcore.errors import FewcoreError, PipelineError, Problem
from fewcore.options import read_options

if TYPE_CHECKING:
    from fewcore.plugins import Registry

SAID = re.compile(r"(?P<name>[\w.-]+(:[\w.-]+)?)(:(?P<options>\w+=.*))?", re.DOTALL)
NEXT_OPTION = re.compile(r",(?=\w+=)")


def read_chosen(option: str, kind: str, said: str, example: str, registry: Registry) -> tuple[str, Any]:
    """Return the name of the component that an option of the command line names, and the component.

    Raises:
        PipelineError: it is not installed, or its options are wrong: all problems at once.

    """
    found = SAID.fullmatch(said)
    if found is None:
        expected = f"NAME, or NAME:OPTION=VALUE,OPTION=VALUE, such as {example}"
        raise PipelineError(Problem(option, f"'{said}'", expected))
    name, options = found["name"], found["options"] or ""
    pairs = [pair.partition("=") for pair in NEXT_OPTION.split(options) if pair]
    component: Any = None
    problems: list[Problem] = []
    try:
        cls = registry.find(kind, name).load()
        component, problems = read_options(cls, {key: yaml12.read_value(value) for key, _, value in pairs})
    except FewcoreError as error:
        problems = list(error.problems)
    keys = [key for key, _, _ in pairs]
    problems += [
        Problem(key, f"given {keys.count(key)} times", "each option once")
        for key in dict.fromkeys(keys)
        if keys.count(key) > 1
    ]
    if problems:
        where = f"{option} {name}"
        places = (f"{where}: {problem.where}" if problem.where else where for problem in problems)
        raise PipelineError(
            *(Problem(place, p.found, p.expected, p.suggestion) for place, p in zip(places, problems, strict=True))
        )
    return name, component
