"""What an evaluator adds to the page: figures that it draws, box plots, tests that pair no models; and the test images."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from running import CPU, Ran, load, load_text

from fewcore import (
    DataError,
    Figure,
    Interrupted,
    MetricReport,
    MetricRow,
    Outcome,
    Predictions,
    StatisticalTest,
    box_figure,
    grouping,
    one_way_anova,
)
from fewcore.reports.figures import evaluator_drawings
from fewcore.reports.page import render_html, render_markdown
from fewcore.reports.report import RunReport, metrics_json, write_report
from fewcore.session import Session
from fewcore.store import Store

ROW = MetricRow("dice", 0.9, (0.8, 0.95), 20, "net", "u-net")
HOSTILE = '<script>alert("x")</script> $\\frac{'


def made(**more):
    return RunReport("run", "", "", "run", (), {"masks": MetricReport((ROW,), **more)}, (), {}, {}, {})


def line(axes):
    axes.plot([0, 1], [0, 1], color="C1")
    axes.axhline(0.5, color="black")


def figure(**more):
    return Figure(**{"title": "A line", "alt": "A line from 0 to 1.", "draw": line, **more})


def test_a_figure_is_drawn_in_the_pages_colours_with_words_and_legend():
    legend = (("truth", "C1", "line"), ("bias", "black", "dashed"))
    (drawing,), failed = evaluator_drawings(made(figures=(figure(legend=legend),)).reports)
    assert failed == []
    assert (drawing.title, drawing.alt) == ("A line", "A line from 0 to 1.")
    assert [(key.label, key.colour, key.shape) for key in drawing.keys] == [
        ("truth", "var(--c1)", "line"), ("bias", "currentColor", "dashed")
    ]  # fmt: skip
    assert "var(--c1)" in drawing.svg
    assert "currentColor" in drawing.svg
    assert not re.search("#d55e00|#000000", drawing.svg)


def test_figures_stand_on_the_page_and_in_markdown():
    report = made(figures=(figure(), figure(title="A wide line", size=(8.0, 3.0))))
    html = render_html(report)
    assert '<section id="figures"' in html
    assert 'aria-label="A line from 0 to 1."' in html
    assert html.count('<figure class="drawing wide">') == html.count("<figcaption>A wide line") == 1
    assert "- A line from 0 to 1." in render_markdown(report)


def test_a_figure_that_fails_is_told_and_harms_nothing(tmp_path: Path):
    def broken(axes):
        raise RuntimeError(HOSTILE)

    report = made(figures=(figure(draw=broken, title="Broken"), figure()))
    write_report(report, tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "masks could not draw &#39;Broken&#39;: RuntimeError" in html
    assert html.count('<figure class="drawing">') == 1
    assert "<script>alert" not in html


def test_hostile_names_in_figures_are_text():
    boxes = {(HOSTILE, HOSTILE): np.arange(5.0), ("b", "c"): np.arange(4.0)}
    drawn = box_figure(HOSTILE, boxes, x_label=HOSTILE, y_label=HOSTILE)
    html = render_html(
        made(figures=(drawn,), tests=(StatisticalTest("dice", HOSTILE, "t", 1, 0.1, 0.1, 3, note=HOSTILE),))
    )
    assert "<script>alert" not in html


@pytest.mark.parametrize(
    "wrong",
    [{"title": " "}, {"alt": ""}, {"legend": (("x", "red", "line"),)}, {"legend": (("x", "C1", "star"),)}],
    ids=str,
)
def test_a_figure_without_words_or_with_colours_of_its_own_is_refused(wrong):
    with pytest.raises(DataError, match="figure '"):
        figure(**wrong)


def test_boxes_tell_their_medians_and_keep_places_and_names_in_order():
    boxes = {
        ("0.05", "u-net"): np.array([0.1, 0.5, math.nan, 0.9]),
        ("0.05", "s4mtl"): np.array([0.6, 0.7, 0.8]),
        ("1.0", "u-net"): np.array([0.9, 0.9, 1.0]),
        ("1.0", "nobody"): np.array([math.nan]),
    }
    drawn = box_figure("Dice along labels.share", boxes, x_label="labels.share", y_label="Dice")
    assert drawn.legend == (("u-net", "C0", "square"), ("s4mtl", "C1", "square"))
    assert "Medians: u-net 0.500 at 0.05, 0.900 at 1.0; s4mtl 0.700 at 0.05." in drawn.alt
    (drawing,), failed = evaluator_drawings(made(figures=(drawn,)).reports)
    assert not failed
    assert {"var(--c0)", "var(--c1)"} <= set(re.findall(r"var\(--c\d\)", drawing.svg))
    assert ">0.05<" in drawing.svg


def test_a_box_spans_the_quartiles():
    from matplotlib.figure import Figure as Canvas

    values = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 100.0])
    axes = Canvas().add_subplot()
    box_figure("t", {("a", ""): values}, x_label="x", y_label="y").draw(axes)
    (box,) = axes.patches
    ends = box.get_path().vertices[:, 1]
    assert (ends.min(), ends.max()) == pytest.approx(tuple(np.quantile(values, [0.25, 0.75])))
    assert any(100.0 in np.asarray(curve.get_ydata()) for curve in axes.lines)  # the number far outside is a dot


def test_percent_scales_boxes_and_words():
    drawn = box_figure("Accuracy", {("a", "x"): np.array([0.5, 0.5])}, x_label="x", y_label="accuracy", percent=True)
    assert "x 50.0 at a" in drawn.alt


def test_no_boxes_still_draw():
    drawn = box_figure("Nothing", {}, x_label="x", y_label="y")
    assert evaluator_drawings(made(figures=(drawn,)).reports)[1] == []


def test_other_tests_stand_in_the_numbers_and_on_the_page():
    samples = [np.arange(5.0), np.arange(5.0) + 9]
    tests = grouping.corrected_tests(
        [
            grouping.statistical_test("dice", "u-net, s4mtl", one_way_anova(samples), {"share": 0.5}, "as independent"),
            StatisticalTest("dice", "normal − nodule", "independent t", 1.5, 0.04, 0.04, 20, 0.1, (0.01, 0.2)),
            StatisticalTest("dice", "constant", "Pearson", math.nan, math.nan, math.nan, 20),
        ]
    )
    assert tests[0].p_holm == pytest.approx(2 * tests[0].p)
    assert tests[1].p_holm == pytest.approx(0.04)
    assert math.isnan(tests[2].p_holm)
    report = made(tests=tests)
    (first, second, third) = metrics_json(report)["tests"]
    assert (first["about"], first["test"], first["share"], first["evaluator"]) == (
        "u-net, s4mtl", "one-way ANOVA", 0.5, "masks"
    )  # fmt: skip
    assert (second["ci95"], second["effect"]) == ([0.01, 0.2], 0.1)
    assert third["p"] is None
    json.dumps(metrics_json(report), allow_nan=False)
    text = render_markdown(report)
    assert "## Tests over models and between classes" in text
    assert "normal − nodule" in text
    assert "+0.100 (+0.0100 to +0.200)" in text
    assert "does not show" in text


def test_a_run_without_them_has_no_such_sections():
    html = render_html(made())
    assert 'id="figures"' not in html
    assert 'id="other-tests"' not in html
    assert metrics_json(made())["tests"] == []


# ---- what evaluators share


def subject(stage="net", conditions=None):
    outcome = Outcome(
        stage, stage, Predictions(np.arange(2), scores=np.ones((2, 2))), "test", np.arange(2), np.arange(2)
    )
    return grouping.Subject(conditions or {}, (({}, (replace(outcome, conditions=conditions or {}),)),))


def test_a_model_is_called_by_what_stands_in_its_place():
    assert subject(conditions={"stages.net": "u-net", "labels.share": 0.5}).model == "u-net"
    assert subject(conditions={"stages.embed": "vae"}).model == "net [vae]"
    assert subject(conditions={"labels.share": 0.5}).model == "net"
    assert subject(conditions={"stages.net": "u-net", "labels.share": 0.5}).others == {"labels.share": 0.5}


def test_the_first_number_that_is_varied_is_the_axis():
    varied = [subject(conditions={"k": 3, "flag": f, "labels.share": s}) for s in (1.0, 0.1) for f in (True, False)]
    assert grouping.numeric_axis(varied) == "labels.share"
    assert grouping.numeric_axis(varied[:2]) == ""
    assert grouping.placed(varied[0], "labels.share") == ("1.0", "net (k 3, flag True)")
    assert grouping.placed(subject(), "labels.share") == ("–", "net")
    shares = [s.conditions.get("labels.share") for s in grouping.in_order([subject(), *varied], "labels.share")]
    assert shares == [0.1, 0.1, 1.0, 1.0, None]


def test_a_stage_with_rows_under_another_method_is_not_left_out():
    masks, classes, other = (subject(stage).first for stage in ("model", "model", "other"))
    assert grouping.left_out([classes, other], [masks]) == ("other",)


def test_means_of_groups_are_one_number_a_group():
    values, groups = np.array([1.0, 3.0, 5.0]), np.array([7, 7, 2])
    assert grouping.means_of_groups(values, groups).tolist() == [5.0, 2.0]


# ---- the images behind the predictions


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return Ran(load("e"), tmp_path_factory.mktemp("e"))


def test_each_outcome_of_rows_has_the_image_of_each_id(ran):
    test = ran.table().view("test", "nothing")
    for judged in ran.result.outcomes:
        outcome = judged.outcome
        np.testing.assert_array_equal(outcome.images[outcome.ids], test.images)


def test_accuracy_is_drawn_as_boxes_along_the_share_of_labels(ran):
    report = ran.result.reports["classes"]
    drawn, cases = report.figures
    assert drawn.title == "Accuracy along labels.share"
    assert cases.title.startswith("Cases of ")
    assert {name for name, _, _ in drawn.legend} == {"s4mtl", "s2mtl", "u-mtl", "conv-net"}
    row = ran.row(stage="model", metric="accuracy", stages__model="conv-net", labels__share=0.5)
    told = re.search(r"conv-net [^;]*? ([\d.]+) at 0.5", drawn.alt)
    assert told is not None
    assert float(told[1]) == pytest.approx(100 * row.value, abs=1.5)
    assert report.left_out == ()  # u-net has no scores, but others in its place have


def test_without_a_number_that_varies_no_box_of_accuracy_is_drawn(tmp_path: Path):
    text = """
name: one
target: finding
stages:
  data: {dataset: toy-patients}
  model: {learner: conv-net}
  classes: {evaluator: classification}
"""
    report = Ran(load_text(tmp_path, text), tmp_path / "store").result.reports["classes"]
    assert report.rows
    (cases,) = report.figures
    assert cases.title.startswith("Cases of model")


def test_a_long_evaluation_can_be_stopped_and_draws_the_same_numbers_in_every_run(tmp_path: Path):
    stage = next(stage for stage in load("e").stages if stage.kind == "evaluator")
    session = Session(Store(tmp_path), CPU, stop=lambda: True)
    with pytest.raises(Interrupted, match="masks: stopped in images"):
        list(session.run_for_evaluator(stage).track([1, 2], name="images"))
    draws = [session.run_for_evaluator(stage).rng.integers(2**63) for _ in range(2)]
    assert draws[0] == draws[1]
