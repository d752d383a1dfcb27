"""The errors of fewcore. Each says where, what was found, what was expected and what to type next.

Every class carries the exit code with which the command line ends. Errors that a user can cause hold a list of
problems, because a user wants to hear of all of them at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in the order in which a reader asks: where, what, expected, what next."""

    where: str
    found: str
    expected: str = ""
    suggestion: str = ""
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}, column {self.column}: " if self.line is not None else ""
        text = f"{place}{self.where}: {self.found}" if self.where else f"{place}{self.found}"
        if self.expected:
            text += f"; expected {self.expected}"
        if self.suggestion:
            text += f" ({self.suggestion})"
        return text


class FewcoreError(Exception):
    """Something went wrong that fewcore can name. `problems` lists every part of it; `exit_code` is the shell's."""

    exit_code = 1

    def __init__(self, *problems: str | Problem, title: str = "") -> None:
        self.title = title
        self.problems = tuple(p if isinstance(p, Problem) else Problem("", p) for p in problems)
        super().__init__(self.describe())

    def describe(self) -> str:
        """Return the message: one line for one problem, a counted list for several."""
        if len(self.problems) == 1 and not self.title:
            return str(self.problems[0])
        count = len(self.problems)
        head = f"{self.title}: {count} problem{'s' if count != 1 else ''}" if self.title else f"{count} problems"
        return "\n".join([head, *(f"  - {problem}" for problem in self.problems)])


class PipelineError(FewcoreError):
    """The pipeline file, or what was typed, is wrong. Nothing was run."""

    exit_code = 2


class DataError(FewcoreError):
    """The images or their labels cannot be used as they are."""

    exit_code = 3


class PluginError(FewcoreError):
    """A plugin or the environment is missing, broken or does not keep the contract."""

    exit_code = 4


class ResourceError(FewcoreError):
    """Disk, memory or the device did not suffice."""

    exit_code = 5


class NumericalError(FewcoreError):
    """A number went wrong: NaN or infinity where neither may be."""

    exit_code = 6


class Interrupted(FewcoreError):
    """The run was stopped and saved; running it again goes on where it was."""

    exit_code = 75


class RanksApart(FewcoreError):
    """Processes that torchrun started do not see the same files or results: none can go on, since others would wait for it."""

    exit_code = 5


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the known word nearest to `word`, or an empty string where none is near."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else ""
