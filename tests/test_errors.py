from __future__ import annotations

import pytest

from fewcore import errors
from fewcore.errors import FewcoreError, PipelineError, PluginError, Problem, did_you_mean


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("stages.a", "unknown option"), "stages.a: unknown option"),
        (Problem("", "no stages"), "no stages"),
        (Problem("a.b", "found 3", "text"), "a.b: found 3; expected text"),
        (Problem("a.b", "found 3", "text", "write '3'"), "a.b: found 3; expected text (write '3')"),
        (Problem("a.b", "unknown", "", "did you mean 'c'?"), "a.b: unknown (did you mean 'c'?)"),
        (Problem("a.b", "found 3", "text", "", 4, 7), "line 4, column 7: a.b: found 3; expected text"),
    ],
)
def test_a_problem_says_where_what_expected_and_what_next(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_one_problem_is_one_line() -> None:
    assert str(PluginError("no learner named 'x'")) == "no learner named 'x'"


def test_several_problems_are_counted_and_listed() -> None:
    error = PipelineError(Problem("a", "unknown"), "no stages", title="pipeline.yaml")
    assert str(error) == "pipeline.yaml: 2 problems\n  - a: unknown\n  - no stages"
    assert str(PipelineError("x", "y")) == "2 problems\n  - x\n  - y"
    assert str(PipelineError("x", title="pipeline.yaml")) == "pipeline.yaml: 1 problem\n  - x"
    assert [problem.found for problem in error.problems] == ["unknown", "no stages"]


def test_exit_codes_are_those_of_the_documentation() -> None:
    codes = {name: getattr(errors, name).exit_code for name in dir(errors) if name.endswith(("Error", "Interrupted"))}
    assert codes == {
        "FewcoreError": 1,
        "PipelineError": 2,
        "DataError": 3,
        "PluginError": 4,
        "ResourceError": 5,
        "NumericalError": 6,
        "Interrupted": 75,
    }
    assert all(issubclass(getattr(errors, name), FewcoreError) for name in codes)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("n_part", "did you mean 'n_parts'?"), ("zzz", ""), ("", ""), ("n_parts", "did you mean 'n_parts'?")],
)
def test_did_you_mean(word: str, hint: str) -> None:
    assert did_you_mean(word, ["n_parts", "seed"]) == hint
    assert did_you_mean(word, []) == ""
