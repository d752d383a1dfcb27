"""A mapping from a pipeline file -> a component's options, with every problem collected; and options described.

Values are read strictly, as JSON: `"3"` is no number, `1.5` no whole number, and a list fills a tuple.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from fewcore.errors import PluginError, Problem, did_you_mean

T = TypeVar("T")

_ONE = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
_MANY = {int: "whole numbers", float: "numbers", bool: "true or false", str: "texts", Path: "paths"}


@dataclass(frozen=True)
class OptionInfo:
    """What `fewcore describe` says about one option. `default` means nothing where `required` is true."""

    name: str
    type: str
    default: Any
    unit: str
    meaning: str
    paper: str
    low: float | None
    high: float | None
    required: bool = False


def read_options(cls: type[T], mapping: Mapping[str, Any]) -> tuple[T | None, list[Problem]]:
    """Return the component with the options of `mapping`, or None and everything that is wrong with them.

    `Problem.where` is the option's name, with the place in the list where it is one: `n_way.1`. What the component
    itself objects to, in `__post_init__`, has an empty `where`.

    Raises:
        PluginError: the types of the class's options cannot be read; that is the plugin's fault, not the file's.

    """
    hints = option_types(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    problems = [_unknown(name, list(fields)) for name in mapping if name not in fields]
    values: dict[str, Any] = {}
    for name, field in fields.items():
        before = len(problems)
        if name in mapping:
            value = _read(hints[name], mapping[name], name, problems)
            _check_bounds(field.metadata, mapping[name], name, problems)
            if len(problems) == before:
                values[name] = value
        elif _is_required(field):
            problems.append(Problem(name, "missing", type_text(hints[name]), field.metadata.get("meaning", "")))
    if not all(name in values or (name not in mapping and not _is_required(field)) for name, field in fields.items()):
        return None, problems
    try:
        component = cls(**values)
    except ValueError as error:
        return None, [*problems, Problem("", str(error) or "found options that do not fit together")]
    except Exception as error:
        found = f"found options with which {cls.__name__} cannot be made: {type(error).__name__}: {error}"
        return None, [*problems, Problem("", found)]
    return (None, problems) if problems else (component, [])


def describe_options(cls: type[Any]) -> list[OptionInfo]:
    """Return what is to be said about each option of a component, in their order."""
    hints = option_types(cls)
    described = []
    for field in dataclasses.fields(cls):
        if field.init:
            unit, meaning, paper = (field.metadata.get(key, "") for key in ("unit", "meaning", "paper"))
            low, high = field.metadata.get("low"), field.metadata.get("high")
            required = _is_required(field)
            default = None if required else _default(field)
            kind = type_text(hints[field.name])
            described.append(OptionInfo(field.name, kind, default, unit, meaning, paper, low, high, required))
    return described


def json_schema(cls: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema of a component's options, with their meaning and bounds."""
    option_types(cls)
    try:
        schema = TypeAdapter(cls).json_schema()
    except PydanticUserError as error:
        raise PluginError(f"{cls.__name__}: its options have no JSON Schema: {error.message}") from error
    schema["additionalProperties"] = False
    described = {info.name: info for info in describe_options(cls)}
    schema["properties"] = {n: entry for n, entry in schema.get("properties", {}).items() if n in described}
    for info in described.values():
        entry = schema["properties"].get(info.name)
        if entry is not None:
            meaning = f"{info.meaning} ({info.unit})" if info.unit else info.meaning
            text = f"{meaning}; in the paper: {info.paper}" if info.paper else meaning
            entry |= {"description": text} if text else {}
            _bound_schema(entry, info)
    return dict(schema)


def _bound_schema(entry: dict[str, Any], info: OptionInfo) -> None:
    """Write the bounds into every number of a schema, elements of lists and alternatives included."""
    if entry.get("type") in ("integer", "number"):
        entry |= {"minimum": info.low} if info.low is not None else {}
        entry |= {"maximum": info.high} if info.high is not None else {}
    below = [entry.get("items"), *entry.get("prefixItems", []), *entry.get("anyOf", [])]
    for child in below:
        if isinstance(child, dict):
            _bound_schema(child, info)


def option_types(cls: type[Any]) -> dict[str, Any]:
    """Return the type of each option.

    Raises:
        PluginError: the class is no dataclass, or an annotation names something that its module does not have.

    """
    if not dataclasses.is_dataclass(cls):
        raise PluginError(f"{cls.__name__} is no dataclass; expected @dataclass(frozen=True) above it")
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:
        raise PluginError(
            f"{cls.__name__}: the types of its options cannot be read: {error}; expected types that can be read at run "
            "time (move their imports out of TYPE_CHECKING)"
        ) from error
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def type_text(annotation: Any) -> str:
    """Return what a value of a type is called in messages.

    >>> type_text(int), type_text(tuple[int, ...] | None), type_text(Literal["hard", "soft"])
    ('a whole number', 'a list of whole numbers or null', 'one of: hard, soft')
    """
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if annotation in _ONE:
        return _ONE[annotation]
    if annotation is None or annotation is types.NoneType:
        return "null"
    if origin is Literal:
        return "one of: " + ", ".join("null" if choice is None else str(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(choice) for choice in arguments)
    if origin in (tuple, list) and arguments:
        if origin is list or arguments[-1] is Ellipsis:
            return f"a list of {_MANY.get(arguments[0], f'values, each {type_text(arguments[0])}')}"
        if len(set(arguments)) == 1:
            return f"a list of {len(arguments)} {_MANY.get(arguments[0], f'values, each {type_text(arguments[0])}')}"
        return f"a list of {len(arguments)} values: " + ", ".join(type_text(one) for one in arguments)
    if origin in (dict, Mapping) or annotation is dict:
        return "a mapping"
    return getattr(annotation, "__name__", str(annotation))


def _unknown(name: str, known: list[str]) -> Problem:
    near = did_you_mean(name, known)
    expected = f"one of: {', '.join(known)}" if known else "none; it has no options"
    return Problem(str(name), "unknown option", "" if near else expected, near)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _read(annotation: Any, value: Any, where: str, problems: list[Problem]) -> Any:
    """Return the value as an option of a type; a list is read one by one, so that each wrong element is named."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and isinstance(value, list | tuple) and arguments:
        repeats = arguments[-1] is Ellipsis
        if not repeats and len(value) != len(arguments):
            problems.append(Problem(where, f"found a list of {len(value)}", type_text(annotation)))
            return None
        kinds = [arguments[0]] * len(value) if repeats else arguments
        return tuple(
            _read(kind, element, f"{where}.{index}", problems)
            for index, (kind, element) in enumerate(zip(kinds, value, strict=True))
        )
    if not all(map(math.isfinite, _floats(value))):
        problems.append(Problem(where, f"found {_shown(value)}", "finite numbers"))
        return None
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    except PydanticUserError as error:
        raise PluginError(f"option '{where}' has the type {annotation}, which a file cannot fill") from error
    try:
        read = adapter.validate_json(json.dumps(value), strict=True)
        if all(map(math.isfinite, _floats(read))):
            return read
        problems.append(Problem(where, f"found {_shown(value)}", "a number that fits 64 bits"))
    except (ValidationError, TypeError, ValueError):
        problems.append(Problem(where, f"found {_shown(value)}", type_text(annotation), _hint(annotation, value)))
    return None


def _hint(annotation: Any, value: Any) -> str:
    if annotation is int and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    if typing.get_origin(annotation) is Literal and isinstance(value, str):
        return did_you_mean(value, [str(choice) for choice in typing.get_args(annotation)])
    if typing.get_origin(annotation) is tuple and not isinstance(value, list | dict | None):
        return f"write [{value}]"
    return ""


def _floats(value: Any) -> list[float]:
    if isinstance(value, float):
        return [value]
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [number for child in children for number in _floats(child)]


def _check_bounds(metadata: Mapping[str, Any], value: Any, where: str, problems: list[Problem]) -> None:
    low, high, unit = metadata.get("low"), metadata.get("high"), metadata.get("unit", "")
    if isinstance(value, list | tuple):
        for index, element in enumerate(value):
            _check_bounds(metadata, element, f"{where}.{index}", problems)
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or any(p.where == where for p in problems):
        return
    if (low is not None and value < low) or (high is not None and value > high):
        if low is not None and high is not None:
            bounds = f"between {low} and {high}"
        else:
            bounds = f"at least {low}" if low is not None else f"at most {high}"
        problems.append(Problem(where, f"found {value}", f"{bounds} {unit}".strip()))


def _shown(value: Any) -> str:
    """Return a value with the name of its type, as a reader of the file would call it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"{value[:60]!r} (text)"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return str(value)[:60] if isinstance(value, int | float) else f"a value of type {type(value).__name__}"
