"""Cells: what repeat, matrix, select, skip and folds make of one file."""

from __future__ import annotations

import pytest

from fewcore import PipelineError
from fewcore.cells import MAX_CELLS, cells, put

STAGES = {"data": {"dataset": "digits"}, "model": {"learner": "s4mtl", "alpha": 1.0}}


def of(**said):
    return list(cells({"stages": STAGES, **said}))


def test_a_file_without_loops_is_one_cell():
    (cell,) = of(seed=3)
    assert (cell.matrix, cell.select, cell.repeat, cell.label) == ({}, {}, {}, "")
    assert cell.spec == {"stages": STAGES, "seed": 3}


def test_a_matrix_is_a_product_in_the_order_of_the_file():
    made = of(matrix={"labels.share": [0.1, 1.0], "stages.model.alpha": [1, 2]})
    assert [cell.matrix for cell in made] == [
        {"labels.share": share, "stages.model.alpha": alpha} for share in (0.1, 1.0) for alpha in (1, 2)
    ]
    assert [cell.spec["labels"] for cell in made] == [{"share": 0.1}] * 2 + [{"share": 1.0}] * 2
    assert all("matrix" not in cell.spec for cell in made)


def test_a_matrix_may_be_a_list_of_cells():
    made = of(matrix=[{"seed": 1, "labels.share": 0.1}, {"seed": 2}])
    assert [cell.matrix for cell in made] == [{"seed": 1, "labels.share": 0.1}, {"seed": 2}]
    assert "labels" not in made[1].spec


def test_whole_stages_are_named_by_a_mapping_and_shown_as_json_in_a_list():
    two = {"a": {"learner": "s4mtl"}, "b": {"learner": "u-net"}}
    made = of(matrix={"stages.model": two})
    assert [cell.matrix for cell in made] == [{"stages.model": "a"}, {"stages.model": "b"}]
    assert [cell.spec["stages"]["model"] for cell in made] == list(two.values())
    assert [cell.matrix["stages.model"] for cell in of(matrix={"stages.model": [two["a"]]})] == ['{"learner": "s4mtl"}']


def test_skip_leaves_out_what_fits_a_rule_whole():
    matrix = {"labels.share": [0.1, 1.0], "stages.model": {name: {"learner": name} for name in "abc"}}
    made = of(matrix=matrix, skip=[{"labels.share": 1.0, "stages.model": ["a", "b"]}, {"stages.model": "c"}])
    assert [tuple(cell.matrix.values()) for cell in made] == [(0.1, "a"), (0.1, "b")]


def test_skip_names_values_as_they_are_shown_and_must_fit_a_cell():
    matrix = {"stages.embed": {"3": {}, "4": {}}, "labels.share": [0.1, 1.0]}
    made = of(matrix=matrix, skip=[{"stages.embed": 4, "labels.share": [1]}])
    assert [tuple(cell.matrix.values()) for cell in made] == [("3", 0.1), ("3", 1.0), ("4", 0.1)]
    with pytest.raises(PipelineError) as error:
        of(matrix=matrix, skip=[{"stages.embed": 5}, {"stages.embed": "3"}, {"labels.share": 0.2}])
    assert [str(problem) for problem in error.value.problems] == [
        'skip: {"stages.embed": 5}, which fits no cell; expected values of the matrix (stages.embed: 3, 4; labels.share: 0.1, 1.0) (mend the rule, or leave it out: --set skip=[])',
        'skip: {"labels.share": 0.2}, which fits no cell; expected values of the matrix (stages.embed: 3, 4; labels.share: 0.1, 1.0) (mend the rule, or leave it out: --set skip=[])',
    ]


def test_repeat_select_and_folds_are_inner_loops():
    said = {"repeat": {"seed": [5, 6]}, "splits": {"folds": 3, "by": "group"}}
    made = of(select={"by": ["score.auc"], "over": {"stages.model.alpha": [1, 2]}}, matrix={"name": ["x"]}, **said)
    assert len(made) == 2 * 2 * 3
    assert made[0].repeat == {"seed": 5, "fold": 0}
    assert made[-1].repeat == {"seed": 6, "fold": 2}
    assert made[-1].select == {"stages.model.alpha": 2}
    assert made[-1].spec["splits"] == {"folds": 3, "by": "group", "fold": 2}
    assert made[-1].label == "name x, stages.model.alpha 2, seed 6, fold 2"


def test_a_single_fold_can_be_named():
    (cell,) = of(splits={"folds": 5, "fold": 3})
    assert cell.repeat == {"fold": 3}
    assert cell.spec["splits"] == {"folds": 5, "fold": 3}


def test_values_of_one_path_follow_another():
    """`stages.model` is put before `stages.model.alpha`, whichever loop each stands in."""
    made = of(
        matrix={"stages.model": {"u": {"learner": "u-net"}}},
        select={"by": ["score.auc"], "over": {"stages.model.alpha": [7]}},
    )
    assert made[0].spec["stages"]["model"] == {"learner": "u-net", "alpha": 7}


def test_put_copies():
    spec = {"stages": {"net": {"backbone": "net"}}}
    value = {"a": [1]}
    changed = put(spec, "stages.net.width", value)
    assert spec == {"stages": {"net": {"backbone": "net"}}}
    value["a"].append(2)
    assert changed["stages"]["net"]["width"] == {"a": [1]}
    assert put(spec, "labels.share", 0.5)["labels"] == {"share": 0.5}
    assert put({"labels": None, **spec}, "labels.share", 0.5)["labels"] == {"share": 0.5}


def test_put_says_where_a_path_leads_nowhere():
    spec = {"stages": {"net": {"backbone": "net"}}, "seed": 1}
    with pytest.raises(PipelineError) as error:
        put(spec, "stages.nets.width", 4)
    assert str(error.value) == "stages.nets.width: no stage 'nets'; expected one of net (did you mean 'net'?)"
    with pytest.raises(PipelineError) as error:
        put(spec, "seed.low", 4)
    assert str(error.value) == (
        "seed.low: 'seed' is no mapping; expected a dotted path to a value, such as stages.maml.inner_steps"
    )


def test_what_nobody_can_mean_is_refused_before_it_is_written_out():
    axes = {f"axis{number}": list(range(10)) for number in range(30)}
    for said in ({"matrix": axes}, {"repeat": axes}, {"splits": {"folds": 10**12}}, {"matrix": [{"seed": 1}] * 20_000}):
        with pytest.raises(PipelineError, match=f"cells; expected at most {MAX_CELLS}"):
            of(**said)
