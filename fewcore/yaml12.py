"""Read YAML safely: YAML 1.2 scalars, no tags, no duplicate keys, bounded size, and the place of every key.

PyYAML follows YAML 1.1, where `1e-3` is text, `on` is true and `010` is eight; and it keeps the last of two equal keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from fewcore.errors import PipelineError, Problem

MAX_BYTES = 1_000_000
MAX_NODES = 10_000
MAX_DEPTH = 40
MAX_DIGITS = 40
AXES = ("matrix.", "repeat.", "select.over.")
"""Under these keys dotted paths stand whole, so that a value of `labels.share` may come from `matrix.labels.share`."""

_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class _Loader(yaml.SafeLoader):
    """Composes nodes without resolving any scalar: `scalar` does that by the rules of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own attribute
    nodes = depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node; stop at once where a text holds too many or nests them too deeply."""
        self.nodes += 1
        self.depth += 1
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH:
            raise _too_much(self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _too_much(mark: yaml.Mark) -> PipelineError:
    expected = f"at most {MAX_NODES} values, aliases written out, at most {MAX_DEPTH} deep"
    return PipelineError(Problem("", "too much", expected, "", mark.line + 1, mark.column + 1))


@dataclass
class Document:
    """What a file says, and where: `marks` maps a dotted path to (line, column), counted from one."""

    data: Any
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)

    def problem(self, path: str, found: str, expected: str = "", suggestion: str = "") -> Problem:
        """Return a problem at `path`, or at the nearest path above it that stands in the file, on its own or as an axis."""
        parts = path.split(".")
        above = [prefix + ".".join(parts[:n]) for n in range(len(parts), 0, -1) for prefix in ("", *AXES)]
        line, column = next((self.marks[place] for place in above if place in self.marks), (None, None))
        return Problem(path, found, expected, suggestion, line, column)


def scalar(text: str) -> Any:
    """Return the value of a plain scalar by the core schema of YAML 1.2.

    >>> [scalar(text) for text in ("1e-3", "on", "010", "true", "~", "12:30")]
    [0.001, 'on', 10, True, None, '12:30']
    """
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


class _Builder:
    """Turns composed nodes into data; collects every problem instead of stopping at the first."""

    def __init__(self) -> None:
        self.marks: dict[str, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self.nodes = 0

    def problem(self, node: yaml.Node, path: str, found: str, expected: str) -> None:
        mark = node.start_mark
        self.problems.append(Problem(path, found, expected, "", mark.line + 1, mark.column + 1))

    def build(self, node: yaml.Node, path: str, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _too_much(node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, path, "tag:yaml.org,2002:seq")
            return [self._item(child, f"{path}.{i}", depth) for i, child in enumerate(node.value)]
        self._check_tag(node, path, "tag:yaml.org,2002:str")
        text = self._text(node, path)
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        if plain and len(text) > MAX_DIGITS and _INT.fullmatch(text):
            self.problem(node, path, f"a number of {len(text)} digits", f"at most {MAX_DIGITS}")
            return None
        return scalar(text) if plain else text

    def _item(self, node: yaml.Node, path: str, depth: int) -> Any:
        self.marks[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        return self.build(node, path, depth + 1)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        self._check_tag(node, path, "tag:yaml.org,2002:map")
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(key_node, path, "a key that is a list or mapping", "text")
                continue
            key = self._text(key_node, path)
            where = f"{path}.{key}" if path else key
            if key in result:
                line = self.marks[where][0]
                self.problem(key_node, where, f"the key twice (first in line {line})", "each key once")
                continue
            self.marks[where] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            result[key] = self.build(value_node, where, depth + 1)
        return result

    def _text(self, node: yaml.Node, path: str) -> str:
        """Return the text of a scalar; half of a surrogate pair, which no file can hold, is a problem."""
        text = str(node.value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.problem(node, path, "half of a surrogate pair", "text in Unicode")
            return ""
        return text

    def _check_tag(self, node: yaml.Node, path: str, plain: str) -> None:
        if node.tag != plain:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            self.problem(node, path, f"the tag {tag}", "plain values; a pipeline names components, never code")


def read(text: str) -> Document:
    """Return the data of a YAML text and the place of each key.

    Raises:
        PipelineError: the text is no YAML, too large, has tags or duplicate keys; all problems at once.

    """
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise PipelineError(f"found {len(text)} characters; expected a file of at most {MAX_BYTES}")
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise PipelineError(Problem("", f"this is no YAML: {what}", "", "", line, column)) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise PipelineError(f"this is no YAML: {type(error).__name__}: {error}") from error
    builder = _Builder()
    data = builder.build(node, "", 0) if node is not None else None
    if builder.problems:
        raise PipelineError(*builder.problems, title="not read")
    return Document(data, builder.marks)


def read_value(text: str) -> Any:
    """Return the value that `--set path=text` gives, by the rules of a pipeline file."""
    return read(text).data if text.strip() else None
