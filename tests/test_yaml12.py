"""YAML: scalars by version 1.2, nothing that runs code, every problem with its place, and no document that hangs."""

from __future__ import annotations

import math
import time

import pytest

from fewcore import PipelineError
from fewcore.yaml12 import MAX_DEPTH, MAX_NODES, read, read_value, scalar

SCALARS = {
    "1e-3": 0.001, "1E3": 1000.0, ".5": 0.5, "5.": 5.0, "-1.5e+2": -150.0, "+7": 7, "-0": 0, "0": 0,
    "010": 10, "0o17": 15, "0x1F": 31, "0b11": "0b11", "1_000": "1_000", "12:30": "12:30", "1:30:00": "1:30:00",
    "2024-01-01": "2024-01-01", "1.2.3": "1.2.3",
    "true": True, "True": True, "TRUE": True, "false": False, "tRue": "tRue",
    "yes": "yes", "no": "no", "on": "on", "off": "off", "y": "y", "n": "n",
    "null": None, "Null": None, "NULL": None, "~": None, "": None, "nil": "nil", "None": "None",
    ".inf": math.inf, "-.inf": -math.inf, "+.INF": math.inf, "inf": "inf", "nan": "nan",
    "<<": "<<", "=": "=", "e5": "e5", ".": ".", "-": "-", "+": "+", "1e": "1e",
}  # fmt: skip


@pytest.mark.parametrize("text", SCALARS)
def test_scalars_are_read_by_version_1_2(text):
    found = scalar(text)
    assert found == SCALARS[text]
    assert type(found) is type(SCALARS[text])


def test_not_a_number():
    assert math.isnan(scalar(".nan"))
    assert math.isnan(scalar(".NaN"))


def test_quoted_scalars_are_text():
    assert read("a: '1'\nb: \"true\"\nc: |\n  5\nd: >\n  null\n").data == {
        "a": "1",
        "b": "true",
        "c": "5\n",
        "d": "null\n",
    }


def test_collections_and_places():
    document = read("a: {b: [1, {c: on}]}\nd: 3\n")
    assert document.data == {"a": {"b": [1, {"c": "on"}]}, "d": 3}
    assert document.marks["a"] == (1, 1)
    assert document.marks["a.b"] == (1, 5)
    assert document.marks["a.b.1"] == (1, 12)
    assert document.marks["a.b.1.c"] == (1, 13)
    assert document.marks["d"] == (2, 1)


def test_a_problem_stands_at_the_nearest_place_of_the_file():
    document = read("a:\n  b: 1\nmatrix:\n  a.c: [1]\n")
    places = {path: document.problem(path, "x") for path in ("a.b", "a.b.deep", "a.c", "a.d", "z")}
    assert {path: (p.line, p.column) for path, p in places.items()} == {
        "a.b": (2, 3), "a.b.deep": (2, 3), "a.c": (4, 3), "a.d": (1, 1), "z": (None, None),
    }  # fmt: skip


def test_aliases_are_written_out():
    document = read("base: &b {lr: 1e-3}\nother: *b\n")
    assert document.data["other"] == {"lr": 0.001}
    document.data["other"]["lr"] = 1
    assert document.data["base"] == {"lr": 0.001}


def test_an_empty_text_is_nothing():
    assert read("").data is None
    assert read("# a comment\n").data is None
    assert read_value("  ") is None
    assert read_value("[1, on]") == [1, "on"]


def test_duplicate_keys_and_tags_are_all_named_with_their_places():
    with pytest.raises(PipelineError) as error:
        read("a: 1\nb: !!python/object:os.system {x: 1}\na: 2\nc: !mine 3\n? [k]\n: 1\n")
    assert str(error.value) == (
        "not read: 4 problems\n"
        "  - line 2, column 4: b: the tag !!python/object:os.system; expected plain values; a pipeline names components, "
        "never code\n"
        "  - line 3, column 1: a: the key twice (first in line 1); expected each key once\n"
        "  - line 4, column 4: c: the tag !mine; expected plain values; a pipeline names components, never code\n"
        "  - line 5, column 3: a key that is a list or mapping; expected text"
    )


def test_what_is_no_yaml_has_a_place():
    with pytest.raises(PipelineError) as error:
        read("a: [1, 2\nb: 3\n")
    (problem,) = error.value.problems
    assert (problem.line, problem.column) == (2, 2)
    assert problem.found.startswith("this is no YAML: ")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = [
    BOMB,
    BOMB.replace("[", "{k: [").replace("]", "]}"),
    "a: &a [*a]",
    "a: &a {b: *a}",
    "&a [*a, *a]",
    "&a {<<: *a}",
    "a: *nowhere",
    "[" * 10_000,
    "{a: " * 10_000,
    "[" * 10_000 + "]" * 10_000,
    "- " * 5_000 + "x",
    "? " * 5_000 + "x",
    "a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
    "[" + "x, " * (MAX_NODES + 1) + "x]",
    "\n".join(f"k{n}: 1" for n in range(MAX_NODES + 1)),
    "x" * 1_000_001,
    "é" * 600_000,
    "a: !!python/object/apply:os.system ['echo']",
    "a: !!python/object/new:os.system ['echo']",
    "a: !!python/name:os.system ''",
    "a: !!python/module:os ''",
    "!!python/object/apply:builtins.exec ['1']",
    "a: !!python/tuple [1]",
    "a: !!binary aGVsbG8=",
    "a: !!set {x}",
    "a: !!omap [a: 1]",
    "a: !!timestamp 2024-01-01",
    "a: !!int '5'",
    "a: !!float 5",
    "a: !!bool yes",
    "a: !!null x",
    "a: !!map [1]",
    "a: !!seq {a: 1}",
    "!include secret.yaml",
    "a: !env HOME",
    "%TAG ! tag:evil,2024:\n---\na: !x 1",
    "%YAML 3.0\n---\na: 1",
    "a: 1\na: 2",
    "{a: 1, a: 2}",
    "a: {b: {c: 1, c: 2}}",
    "[a: 1, {b: 2, b: 3}, {b: 1, b: 1}]",
    "? [1, 2]\n: 3",
    "? {a: 1}\n: 3",
    "{[1]: 2}",
    "--- a\n--- b",
    "a: 1\n...\nb: 2",
    "a: b: c",
    "a: [1, 2",
    "a: {1, 2",
    "a: 'open",
    'a: "open',
    "a: |\n x\ny",
    "\ta: 1",
    "a:\n\t- 1",
    "a: @x",
    "a: `x`",
    "a: %x",
    "a: \x00",
    "\x01\x02\x03",
    "a: \ud800",
    "\x7f",
    'a: "\\x"',
    'a: "\\ud800"',
    "a: &a 1\nb: &a 2\nc: *b",
    "- a\nb: 1",
    "a: 1\n b: 2",
    "]",
    "}",
    "a: - b",
    "-a: -\n -",
    "<<: {a: 1}\n<<: {b: 2}",
    "1: x\n'1': y",
    "a: 0x\na: 1",
    "a: " + "9" * 5_000,
    'a: {"\\udfff": 1}',
]


def test_there_are_enough_hostile_documents():
    assert len(set(HOSTILE)) == len(HOSTILE) >= 60


@pytest.mark.parametrize("text", HOSTILE, ids=[f"{n}-{text[:12]!r}" for n, text in enumerate(HOSTILE)])
def test_hostile_documents_are_refused_in_an_instant(text):
    began = time.thread_time()
    with pytest.raises(PipelineError) as error:
        read(text)
    assert time.thread_time() - began < 3  # some tenths alone; other tests' threads and garbage make it more
    assert len(str(error.value)) < 5_000


def test_merge_keys_are_plain_keys():
    assert read("a: {<<: 1}").data == {"a": {"<<": 1}}
