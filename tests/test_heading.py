"""What is wrong with a file beside its stages."""

from __future__ import annotations

import pytest
import toys

from fewcore import PipelineError, pipeline, yaml12

STAGES = """stages:
  data: {dataset: toy-patients}
  net: {backbone: net}
  model: {learner: fine-tune, from: {start: net}}
  score: {evaluator: classification}
"""


def problems(head, version="fewcore: 1\n"):
    with pytest.raises(PipelineError) as error:
        pipeline.check(yaml12.read(version + head + "\n" + STAGES), toys.registry())
    return [str(problem) for problem in error.value.problems]


CASES = {
    "name: [a]": ["line 2, column 1: name: '['a']'; expected text"],
    "seed: -1": ["line 2, column 1: seed: '-1'; expected a whole number from 0"],
    "seed: true": ["line 2, column 1: seed: 'True'; expected a whole number from 0"],
    "sed: 1": [
        "line 2, column 1: sed: unknown key; expected one of fewcore, name, seed, target, splits, labels, repeat, "
        "matrix, skip, select, stages, published (did you mean 'seed'?)"
    ],
    "target: 3": ["line 2, column 1: target: '3'; expected the name of a class target"],
    "target: {of: finding}": [
        "line 2, column 1: target: '{'of': 'finding'}'; expected target: {of: finding, positive: [malignant]}"
    ],
    "splits: 5": ["line 2, column 1: splits: '5'; expected a mapping of option of splits"],
    "splits: {fold: 3}": [
        "line 2, column 1: splits: no test rows; expected folds: 10, or a share such as test: 0.25",
        "line 2, column 10: splits.fold: '3'; expected a whole number below folds (None)",
    ],
    "splits: {folds: 5, fold: 5}": ["line 2, column 20: splits.fold: '5'; expected a whole number below folds (5)"],
    "splits: {folds: 1}": ["line 2, column 10: splits.folds: '1'; expected a whole number, at least 2"],
    "splits: {folds: 5, test: 0.2}": [
        "line 2, column 20: splits.test: a share beside folds; expected one of folds and test"
    ],
    "splits: {validation: 0.1}": [
        "line 2, column 1: splits: no test rows; expected folds: 10, or a share such as test: 0.25"
    ],
    "splits: {test: 1, by: patient, seed: x}": [
        "line 2, column 10: splits.test: '1'; expected a share from 0 up to, not including, 1",
        "line 2, column 19: splits.by: 'patient'; expected group or image",
        "line 2, column 32: splits.seed: 'x'; expected a whole number from 0",
    ],
    "splits: {tests: 0.2, test: 0.2}": [
        "line 2, column 10: splits.tests: unknown option of splits; "
        "expected one of folds, fold, by, test, validation, seed (did you mean 'test'?)"
    ],
    "labels: {share: 0}": ["line 2, column 10: labels.share: '0'; expected a share above 0, at most 1"],
    "labels: {share: ten}": ["line 2, column 10: labels.share: 'ten'; expected a share above 0, at most 1"],
    "labels: {number: 0, by: group}": [
        "line 2, column 10: labels.number: '0'; expected a whole number from 1",
        "line 2, column 21: labels.by: 'group'; expected class",
    ],
    "labels: {share: 0.5, per_class: 3}": [
        "line 2, column 1: labels: share and per_class; expected one of share, number, per_class"
    ],
    "labels: {classes: none}": [
        "line 2, column 10: labels.classes: 'none'; expected a list of names or numbers of classes"
    ],
    "repeat: [1]": [
        "line 2, column 1: repeat: '[1]'; expected a mapping of dotted paths to lists, such as repeat: {seed: [0, 1, 2]}"
    ],
    "repeat: {seed: 3}": ["line 2, column 10: repeat.seed: '3'; expected a list of values"],
    "repeat: {seed: []}": ["line 2, column 10: repeat.seed: '[]'; expected a list of values"],
    "matrix: 5": ["line 2, column 1: matrix: '5'; expected a mapping of dotted paths to values, or a list of cells"],
    "matrix: [5]": [
        "line 2, column 1: matrix: a list with something else than cells; expected cells such as [{labels.share: 0.1}]"
    ],
    "matrix: {labels.share: 0.1}": [
        "line 2, column 10: matrix.labels.share: '0.1'; expected a list of values, or a mapping of names to values"
    ],
    "matrix: {stages.nett.width: [1, 2]}": [
        "line 2, column 10: stages.nett.width: no stage 'nett'; expected one of data, net, model, score "
        "(did you mean 'net'?)"
    ],
    "matrix: {labels.share: [0.5, 2]}": [
        "line 2, column 10: labels.share: '2'; expected a share above 0, at most 1",
    ],
    "skip: 5": ["line 2, column 1: skip: '5'; expected a list of rules such as [{labels.share: 1.0}]"],
    "skip: [{labels.share: 1.0}]": [
        "line 2, column 9: skip.0.labels.share: no axis of the matrix; expected a file with a matrix"
    ],
    "matrix: {labels.share: [0.5, 1.0]}\nskip: [{label.share: 1.0}]": [
        "line 3, column 9: skip.0.label.share: no axis of the matrix; expected one of labels.share "
        "(did you mean 'labels.share'?)"
    ],
    "select: {by: score.auc}": [
        "line 2, column 1: select: no list 'by' or no mapping 'over'; "
        "expected select: {by: [score.accuracy], over: {stages.x.y: [1, 2]}}"
    ],
    "select: {by: [score.auc], over: {stages.model.strength: 3}}": [
        "line 2, column 34: select.over.stages.model.strength: '3'; expected a list of values"
    ],
    "select: {by: [scores.auc], over: {stages.model.strength: [x, 4.0]}}": [
        "line 2, column 15: select.by.0: 'scores.auc'; expected EVALUATOR.METRIC with an evaluator among score "
        "(did you mean 'score'?)",
        "line 2, column 35: stages.model.strength: found 'x' (text); expected a number",
    ],
    "select: {by: [score], over: {stages.model.strength: [3.0]}}": [
        "line 2, column 15: select.by.0: 'score'; expected EVALUATOR.METRIC with an evaluator among score"
    ],
    "splits: {folds: 1000000000}": ["matrix: 1000000000 cells; expected at most 10000"],
    "repeat: {seed: [1], a: [1]}\nmatrix: [{}]": [
        "line 3, column 1: matrix: a list with something else than cells; expected cells such as [{labels.share: 0.1}]"
    ],
}


@pytest.mark.parametrize("head", CASES)
def test_every_problem_has_its_place_and_says_what_was_expected(head):
    assert problems(head) == CASES[head]


def test_the_version_of_the_format_must_be_there():
    expected = "expected the line 'fewcore: 1', the version of the file format"
    assert problems("", "") == [f"fewcore: 'None'; {expected}"]
    assert problems("", "fewcore: 2\n") == [f"line 1, column 1: fewcore: '2'; {expected}"]
    assert problems("", "fewcore: true\n") == [f"line 1, column 1: fewcore: 'True'; {expected}"]


@pytest.mark.parametrize("text", ["", "5", "[1, 2]", "just text", "null", "stages", "? x"])
def test_what_is_no_mapping_is_refused(text):
    with pytest.raises(PipelineError):
        pipeline.check(yaml12.read(text), toys.registry())


def test_good_heads():
    for head in (
        "splits: {folds: 10, fold: 3}",
        "splits: {folds: 10, by: group, validation: 0.1}",
        "splits: {test: 0.25, validation: 0.1, by: group, seed: 3}",
        "splits: {seed: 3}",
        "labels: {share: 0.1, by: class}",
        "labels: {classes: [none, 1], per_class: 6}",
        "target: {of: finding, positive: [malignant, benign]}",
        "select: {by: [score.auc], over: {stages.model.strength: [3.0, 4.0]}}",
    ):
        assert pipeline.check(yaml12.read("fewcore: 1\n" + head + "\n" + STAGES), toys.registry())
