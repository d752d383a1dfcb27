"""Checks of what a component says of itself. Nothing is run."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import typing
from pathlib import Path
from typing import Any

from fewcore import yaml12
from fewcore.components import Offer
from fewcore.errors import FewcoreError
from fewcore.kinds import INPUTS, KINDS, RESERVED
from fewcore.options import describe_options, json_schema, option_types, read_options
from fewcore.testing.trial import STORED, Setup, Trial, complain

HELPERS = ("sources",)
OF_KIND = {"dataset": ("prepare",), "evaluator": ("paired_tests",)}
"""What components may offer beside their verb: all of them, and those of one kind."""
BUILD = ("shape", "n_outputs", "generator")
OPEN = ("name", "folder", "facts")
START = ("folder",)


def target_is_a_frozen_dataclass(offer: Offer, setup: Setup) -> None:  # noqa: ARG001
    """The announced target can be imported and is a frozen dataclass, so that it can be compared, kept and hashed."""
    try:
        cls = offer.load()
    except FewcoreError as error:
        complain(offer, str(error), "a target that can be imported", "target='module:Class'")
    if not cls.__dataclass_params__.frozen:
        complain(offer, f"@dataclass above {cls.__name__}", "a frozen dataclass", "@dataclass(frozen=True)")


def docstring_explains_the_method(offer: Offer, setup: Setup) -> None:  # noqa: ARG001
    """The class has a docstring of its own, which names the source that the announcement names."""
    cls = offer.load()
    text = cls.__dict__.get("__doc__") or ""
    # @dataclass writes the signature where there is no docstring.
    if not text.strip() or text.startswith(f"{cls.__name__}("):
        complain(
            offer,
            f"no docstring of {cls.__name__}",
            "what the method does, in two or three sentences",
            '"""Say what the method does. Source: authors, title, year, DOI or arXiv."""',
        )
    paper = offer.component.paper
    identifier = re.sub(r"^(doi|arxiv):", "", paper, flags=re.IGNORECASE)
    around = f"{text} {sys.modules[cls.__module__].__doc__ or ''}"
    if identifier != paper and identifier.lower() not in around.lower():
        complain(
            offer, f"a docstring without the paper {paper}", "the source", f"Source: authors, title, year, {paper}"
        )


def options_are_described(offer: Offer, setup: Setup) -> None:
    """Each option has a type that a file can fill, a meaning, a name that is free, and a default within its bounds."""
    cls = offer.load()
    types = option_types(cls)
    for info in describe_options(cls):
        write = f"{info.name}: int = option(3, 'what it means')"
        if info.name in RESERVED:
            complain(
                offer,
                f"an option named '{info.name}'",
                f"none of the reserved words {', '.join(sorted(RESERVED))}",
                f"{info.name}_: another name",
            )
        if not info.meaning:
            complain(offer, f"the option '{info.name}' without a meaning", "what it means, in one line", write)
        if types[info.name] in (Any, object):
            complain(offer, f"the option '{info.name}' of any type", "a type, such as int or Literal['a', 'b']", write)
        if not info.required:
            problems = read_options(cls, {**_minimal(cls, setup), info.name: _plain(info.default)})[1]
            wrong = [str(problem) for problem in problems if problem.where.partition(".")[0] == info.name]
            if wrong:
                complain(
                    offer,
                    f"a default that its own type or bounds refuse: {wrong[0]}",
                    "a default that fits",
                    f"option(<a value that fits>, ...) for {info.name}",
                )


def options_survive_a_file(offer: Offer, setup: Setup) -> None:
    """Options written to YAML and JSON and read again make an equal component; there is a JSON Schema of them."""
    trial = Trial(offer, setup)
    said = {info.name: _plain(getattr(trial.component, info.name)) for info in describe_options(trial.cls)}
    try:
        text = json.dumps(said)
    except TypeError as error:
        complain(
            offer,
            f"options that are no JSON: {error}",
            "numbers, text, booleans and tuples of these",
            "names: tuple[str, ...] = option((), 'what they mean')",
        )
    # JSON is YAML, so one text serves for both.
    for form, read in (("YAML", yaml12.read(text).data if said else {}), ("JSON", json.loads(text))):
        again, problems = read_options(trial.cls, read)
        if problems:
            complain(
                offer,
                f"options that do not survive {form}: {'; '.join(map(str, problems))}",
                "options that do",
                "a type that a file can fill, such as int, float, str, bool or tuple[int, ...]",
            )
        if again != trial.component:
            complain(
                offer,
                f"{again} after a round through {form}",
                str(trial.component),
                "a __post_init__ that checks options and changes none",
            )
    json.dumps(json_schema(trial.cls))


def wrong_options_are_refused(offer: Offer, setup: Setup) -> None:
    """A value of another type is refused for every option, before anything runs; so is an unknown option."""
    cls = offer.load()
    minimal = _minimal(cls, setup)
    for name, annotation in option_types(cls).items():
        for nonsense in ({"no": {"such": "thing"}}, [[["nonsense"]]]):
            component, _ = read_options(cls, {**minimal, name: nonsense})
            if component is not None:
                complain(offer, f"the option '{name}' ({annotation}) taking {nonsense}", "an error", f"{name}: int")
    if read_options(cls, {**minimal, "no_such_option": 1})[0] is not None:
        complain(offer, "an unknown option taken", "an error", "options as fields of the dataclass, and no __init__")


def has_one_verb(offer: Offer, setup: Setup) -> None:  # noqa: ARG001
    """The class has the verb of its kind and, but for what its kind may offer beside it, nothing public that can be called."""
    cls, verb = offer.load(), KINDS[offer.kind].verb
    if not callable(getattr(cls, verb, None)):
        complain(offer, f"no method {verb} in {cls.__name__}", "the verb of its kind", f"def {verb}(self, ...)")
    allowed = {verb, *HELPERS, *OF_KIND.get(offer.kind, ())}
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        if name.startswith("_") or name in allowed or isinstance(member, property):
            continue
        if inspect.isroutine(member) or isinstance(member, staticmethod | classmethod):
            complain(offer, f"a second public method {name} in {cls.__name__}", f"one verb, {verb}", f"def _{name}")


def verb_asks_for_known_inputs(offer: Offer, setup: Setup) -> None:
    """The verb asks only for the inputs of its kind, by name, and names in `monitors` only what it asks for."""
    trial = Trial(offer, setup)
    verb, names = trial.kind.verb, list(trial.parameters)
    allowed: tuple[str, ...] = tuple(name for name in INPUTS if name != "outcomes")
    fixed = {"backbone": BUILD, "tracker": OPEN, "executor": START}.get(offer.kind, ())
    allowed = {"dataset": (), "evaluator": ("outcomes",)}.get(offer.kind, allowed)
    with_run = fixed or (*allowed, "run")
    for name, parameter in trial.parameters.items():
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            complain(offer, f"*{name} in {verb}", "every input named", f"def {verb}(self, images: ImageSet, run: Run)")
        if name not in with_run:
            complain(
                offer,
                f"{verb} asking for '{name}'",
                f"only inputs among {', '.join(with_run)}",
                "options of its own as fields of the dataclass",
            )
    needed = fixed or ("run", *(["outcomes"] if offer.kind == "evaluator" else []))
    for name in needed:
        if name not in names:
            complain(
                offer,
                f"{verb} without the parameter '{name}'",
                f"it, beside {', '.join(names) or 'self'}",
                f"def {verb}(self, {', '.join((*names, name))})",
            )
    for name in getattr(trial.cls, "monitors", ()):
        if name not in names:
            complain(
                offer,
                f"'{name}' in monitors",
                f"only inputs that {verb} asks for: {', '.join(names)}",
                "monitors: ClassVar[tuple[str, ...]] = ('validation_tasks',)",
            )
    if offer.component.needs_labels and offer.kind != "dataset" and not {"images", "validation"} & {*names}:
        complain(
            offer,
            f"needs_labels=True, but {verb} asks for no images",
            "needs_labels=False, or the images",
            f"def {verb}(self, images: ImageSet, run: Run)",
        )


def result_is_declared(offer: Offer, setup: Setup) -> None:
    """The verb's return annotation is the class of what it makes; where that is stored, it saves and loads itself."""
    trial = Trial(offer, setup)
    made = trial.hints().get("return")
    made = typing.get_origin(made) or made
    if not isinstance(made, type) or made is Any:
        found = f"{trial.kind.verb} -> {made}" if made is not None else f"{trial.kind.verb} without a return annotation"
        complain(offer, found, f"the class of what it makes ({trial.kind.makes})", f"def {trial.kind.verb}(...) -> ...")
    if offer.kind in STORED:
        for method in ("to_arrays", "from_arrays"):
            if not callable(getattr(made, method, None)):
                complain(
                    offer,
                    f"{made.__name__} without {method}",
                    "to_arrays() and from_arrays(arrays, meta, inputs)",
                    f"def {method} in {made.__name__}",
                )
        if getattr(made, "_is_protocol", False):
            complain(
                offer,
                f"-> {made.__name__}, a protocol",
                "the concrete class, which is loaded again by its name",
                f"def {trial.kind.verb}(...) -> the class that it makes",
            )


def _minimal(cls: type[Any], setup: Setup) -> dict[str, Any]:
    return {info.name: setup.given[info.name] for info in describe_options(cls) if info.name in setup.given}


def _plain(value: Any) -> Any:
    """Return an option's value as a file would say it."""
    if isinstance(value, tuple | list):
        return [_plain(child) for child in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value) if isinstance(value, Path) else value
