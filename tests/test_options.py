from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest

from fewcore import PluginError, option
from fewcore.options import OptionInfo, describe_options, json_schema, option_types, read_options, type_text


@dataclass(frozen=True)
class Widget:
    """A component with an option of every type."""

    monitors: ClassVar[tuple[str, ...]] = ()

    n_parts: int = option(..., "number of parts", unit="parts", low=2)
    rate: float = option(0.1, "step of the optimiser", paper="0.01", low=0, high=1)
    n_way: tuple[int, ...] = option((5,), "classes of a task", low=2)
    size: tuple[int, int] | None = option(None, "size", unit="pixels", low=1)
    mode: Literal["hard", "soft"] = option("hard", "kind of assignment")
    shuffle: bool = option(False, "whether to shuffle")
    path: Path | None = option(None, "where")  # noqa: RUF009
    n_shot: int | tuple[int, ...] = option(1, "shots", low=1, high=50)
    corners: tuple[tuple[int, int], ...] = option((), "pairs")
    weights: dict[str, float] = field(default_factory=dict)
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.n_parts == 13:
            raise ValueError("n_parts: found 13; expected a luckier number")
        if self.n_parts == 14:
            raise ValueError
        1 / (self.n_parts - 15)


def problems(**options: Any) -> list[str]:
    component, found = read_options(Widget, options)
    assert (component is None) == bool(found)
    return [str(problem) for problem in found]


def test_options_are_read() -> None:
    component, found = read_options(
        Widget,
        {
            "n_parts": 3,
            "rate": 1,
            "n_way": [2, 5],
            "size": [3, 4],
            "mode": "soft",
            "shuffle": True,
            "path": "a/b",
            "n_shot": [1, 5],
            "corners": [[1, 2], [3, 4]],
            "weights": {"a": 0.5},
        },
    )
    assert not found
    shapes: Any = {"n_way": (2, 5), "size": (3, 4), "n_shot": (1, 5), "corners": ((1, 2), (3, 4))}
    assert component == Widget(3, 1.0, mode="soft", shuffle=True, path=Path("a/b"), weights={"a": 0.5}, **shapes)
    assert isinstance(component.rate, float)


def test_defaults_are_kept() -> None:
    assert read_options(Widget, {"n_parts": 2}) == (Widget(2), [])


def test_every_problem_is_told_at_once() -> None:
    found = problems(n_part=4, rate=2, n_way=[1, "a", 2.0, 3], size=[3], mode="sofd", shuffle="yes", n_shot=0, path=3)
    assert found == [
        "n_part: unknown option (did you mean 'n_parts'?)",
        "n_parts: missing; expected a whole number (number of parts)",
        "rate: found 2; expected between 0 and 1",
        "n_way.1: found 'a' (text); expected a whole number",
        "n_way.2: found 2.0; expected a whole number (write 2)",
        "n_way.0: found 1; expected at least 2",
        "size: found a list of 1; expected a list of 2 whole numbers or null",
        "mode: found 'sofd' (text); expected one of: hard, soft (did you mean 'soft'?)",
        "shuffle: found 'yes' (text); expected true or false",
        "path: found 3; expected a path or null",
        "n_shot: found 0; expected between 1 and 50",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_parts": "abc"}, "n_parts: found 'abc' (text); expected a whole number"),
        ({"n_parts": "3"}, "n_parts: found '3' (text); expected a whole number"),
        ({"n_parts": True}, "n_parts: found true; expected a whole number"),
        ({"n_parts": None}, "n_parts: found null; expected a whole number"),
        ({"n_parts": [3]}, "n_parts: found a list of 1; expected a whole number"),
        ({"n_parts": {"a": 1}}, "n_parts: found a mapping; expected a whole number"),
        ({"n_parts": 2.5}, "n_parts: found 2.5; expected a whole number"),
        ({"n_parts": object()}, "n_parts: found a value of type object; expected a whole number"),
        ({"n_parts": 1}, "n_parts: found 1; expected at least 2 parts"),
        ({"n_parts": 2, "rate": float("nan")}, "rate: found nan; expected finite numbers"),
        ({"n_parts": 2, "rate": float("-inf")}, "rate: found -inf; expected finite numbers"),
        ({"n_parts": 2, "n_way": [2, float("inf")]}, "n_way.1: found inf; expected finite numbers"),
        ({"n_parts": 2, "weights": {"a": float("nan")}}, "weights: found a mapping; expected finite numbers"),
        ({"n_parts": 2, "n_way": 5}, "n_way: found 5; expected a list of whole numbers (write [5])"),
        ({"n_parts": 2, "n_way": None}, "n_way: found null; expected a list of whole numbers"),
        ({"n_parts": 2, "size": [0, 1]}, "size.0: found 0; expected at least 1 pixels"),
        ({"n_parts": 2, "n_shot": [1, 60]}, "n_shot.1: found 60; expected between 1 and 50"),
        ({"n_parts": 2, "n_shot": ["a"]}, "n_shot: found a list of 1; expected a whole number or a list of whole numbers"),
        ({"n_parts": 2, "corners": [[1]]}, "corners.0: found a list of 1; expected a list of 2 whole numbers"),
        ({"n_parts": 2, "corners": [[1, "x"]]}, "corners.0.1: found 'x' (text); expected a whole number"),
        ({"n_parts": 2, "weights": [1]}, "weights: found a list of 1; expected a mapping"),
        ({"n_parts": 2, "_count": 1}, "_count: unknown option; expected one of: n_parts, rate, n_way, size, mode, "
                                       "shuffle, path, n_shot, corners, weights"),
        ({"n_parts": 2, "monitors": []}, "monitors: unknown option; expected one of: n_parts"),
        ({"n_parts": 13}, "n_parts: found 13; expected a luckier number"),
        ({"n_parts": 14}, "found options that do not fit together"),
        ({"n_parts": 15}, "found options with which Widget cannot be made: ZeroDivisionError: division by zero"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_messages(options: dict[str, Any], message: str) -> None:
    (found,) = problems(**options)
    assert found.startswith(message)


def test_huge_numbers_are_refused_where_they_are_no_floats() -> None:
    (found,) = problems(n_parts=2, rate=10**400)
    assert found.endswith("; expected a number that fits 64 bits")


def test_what_the_component_objects_to_comes_beside_unknown_options() -> None:
    assert problems(n_parts=13, zzz=1) == [
        "zzz: unknown option; expected one of: n_parts, rate, n_way, size, mode, shuffle, path, n_shot, corners, weights",
        "n_parts: found 13; expected a luckier number",
    ]


def test_no_options_at_all() -> None:
    @dataclass(frozen=True)
    class Bare:
        pass

    assert read_options(Bare, {}) == (Bare(), [])
    assert str(read_options(Bare, {"x": 1})[1][0]) == "x: unknown option; expected none; it has no options"
    assert describe_options(Bare) == []
    assert json_schema(Bare)["additionalProperties"] is False


def test_described() -> None:
    described = {info.name: info for info in describe_options(Widget)}
    assert list(described) == [field.name for field in fields(Widget) if field.init]
    assert described["rate"] == OptionInfo("rate", "a number", 0.1, "", "step of the optimiser", "0.01", 0, 1)
    required = OptionInfo("n_parts", "a whole number", None, "parts", "number of parts", "", 2, None, required=True)
    assert described["n_parts"] == required
    assert described["weights"].default == {}


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "a whole number"),
        (tuple[float, ...], "a list of numbers"),
        (list[str], "a list of texts"),
        (tuple[int, str], "a list of 2 values: a whole number, text"),
        (tuple[tuple[int, int], ...], "a list of values, each a list of 2 whole numbers"),
        (Literal["a", 1, None], "one of: a, 1, null"),
        (int | None, "a whole number or null"),
        (Annotated[int, "even"], "a whole number"),
        (dict[str, int], "a mapping"),
        (Widget, "Widget"),
    ],
    ids=str,
)
def test_types_in_words(annotation: Any, text: str) -> None:
    assert type_text(annotation) == text


def test_schema_has_meanings_and_bounds() -> None:
    schema = json_schema(Widget)
    entries = schema["properties"]
    assert json.loads(json.dumps(schema)) == schema
    assert schema["required"] == ["n_parts"]
    assert entries["n_parts"]["description"] == "number of parts (parts)"
    assert (entries["rate"]["minimum"], entries["rate"]["maximum"]) == (0, 1)
    assert entries["rate"]["description"] == "step of the optimiser; in the paper: 0.01"
    assert entries["n_way"]["items"]["minimum"] == 2
    assert [one.get("minimum") for one in entries["size"]["anyOf"][0]["prefixItems"]] == [1, 1]
    whole, several = entries["n_shot"]["anyOf"]
    assert whole["maximum"] == several["items"]["maximum"] == 50
    assert entries["mode"]["enum"] == ["hard", "soft"]
    assert "_count" not in entries


@dataclass(frozen=True)
class Unreadable:
    size: NoSuchType = None  # type: ignore[name-defined] # noqa: F821


@dataclass(frozen=True)
class Unfillable:
    thing: pytest.MonkeyPatch = option(None, "nothing that a file could say")  # noqa: RUF009


def test_faults_of_the_plugin_are_plugin_errors() -> None:
    with pytest.raises(PluginError, match=r"int is no dataclass; expected @dataclass"):
        option_types(int)
    message = (
        "Unreadable: the types of its options cannot be read: name 'NoSuchType' is not defined; expected types that"
    )
    with pytest.raises(PluginError, match=message):
        read_options(Unreadable, {})
    with pytest.raises(PluginError, match=r"option 'thing' has the type .*MonkeyPatch.*, which a file cannot fill"):
        read_options(Unfillable, {"thing": 1})
    with pytest.raises(PluginError, match=r"Unfillable: its options have no JSON Schema: "):
        json_schema(Unfillable)
