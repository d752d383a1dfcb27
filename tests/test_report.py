"""The report: equal runs write equal numbers, the page is whole and safe, and no table says what the rows do not."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fewcore import Comparison, DataError, MetricReport, MetricRow, StatisticalTest, __version__
from fewcore.reports.drawing import draw
from fewcore.reports.figures import curve_drawings, learning_drawings, result_drawings
from fewcore.reports.headline import headline, tiles
from fewcore.reports.page import render_html, render_markdown
from fewcore.reports.places import places_by_tasks
from fewcore.reports.report import Picture, RunReport, StageRecord, TaskCount, metrics_json, summary_table, write_report
from fewcore.reports.result_tables import paper_table, results_tables
from fewcore.reports.results import results_of
from fewcore.reports.sheets import sheet_of
from fewcore.reports.tests_tables import comparison_table, other_tests_table

HOSTILE = "<script>alert('x')</script> | `a` [b](javascript:c) \x1b[31m $\\frac{ \"q\" &lt; #"
CURVE = {"x": [0.0, 0.2, 1.0], "y": [0.0, 0.7, 1.0], "x_label": "false positive rate", "y_label": "true positive rate"}


def row(stage: str, value: float, half: float = 0.008, **more: Any) -> MetricRow:
    conditions = more.pop("conditions", {"way": 5, "shot": 1})
    more = {"seen": "labels: none", "norm": "transductive", **more}
    return MetricRow("accuracy", value, (value - half, value + half), 1000, stage, stage, conditions=conditions, **more)


def stage(name: str, **more: Any) -> StageRecord:
    fields: dict[str, Any] = {
        "name": name,
        "kind": "meta_learner",
        "component": name,
        "distribution": "fewcore-meta",
        "version": "0.1.0",
        "options": {"inner_steps": 5},
        "seed": 0,
        "split": "train",
        "inputs": {"tasks": "tasks"},
        "key": f"{name}-0123456789abcdef",
        "status": "computed",
        "seconds": 75.0,
        "peak_memory_mb": 512.0,
        "seen": "labels: none",
        "conditions": {},
    }
    return StageRecord(**{**fields, **more})


def pictures(name: str = "part") -> tuple[Picture, ...]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 1, 8, 8), dtype=np.uint8)
    groups, roles = np.repeat([0, 1, -1], 4), np.tile([0, 1, 1, 1], 3)
    labels = (f"{name} 0", f"{name} 1")
    return (
        Picture("data", "Sample", "data", "From the training rows.", images),
        Picture("partition", "Partition 1", "parts", "Two parts.", images, groups, labels),
        Picture("tasks", "Task 1", "tasks", "", images.astype(np.float32) - 100.0, groups, labels, roles),
        Picture("tasks", "Volumes", "tasks", "", rng.random((12, 3, 5, 8, 8), np.float32), groups, labels, roles),
        Picture("map", "Map", "embed", "Two components.", None, groups, labels, None, rng.normal(size=(12, 2))),
        Picture("model", "Model", "graph", f"Two edges of {name}.", svg=draw(lambda axes: axes.plot([0, 1], [0, 1]))),
        Picture("model", "Model", "broken", f"could not draw {name}"),
    )


@pytest.fixture(scope="module")
def report() -> RunReport:
    records = tuple(
        {"loop": "train", "step": step, "loss": 1 / step, "accuracy": 0.5, "validation_accuracy": 0.4}
        for step in range(1, 60)
    )
    rows = (row("maml", 0.6884), row("knn", 0.5746, 0.0135), row("oracle", 0.9446, seen="labels: 60 training"))
    pair = Comparison(
        "accuracy", "maml", "knn", 0.1138, (0.1, 0.13), 1e-9, 2e-9, 1000, "paired t", {"way": 5, "shot": 1}
    )
    return RunReport(
        name="omniglot",
        pipeline="fewcore: 1\nname: omniglot\n",
        command="fewcore run omniglot.yaml",
        title="Omniglot",
        stages=(stage("maml", records=records), stage("knn", status="reused")),
        reports={"score": MetricReport(rows, (pair,), curves={"maml": CURVE, "knn": CURVE})},
        pictures=pictures(),
        published={
            "source": "Table 8",
            "rows": [
                {
                    "stage": "maml",
                    "metric": "accuracy",
                    "way": 5,
                    "shot": 1,
                    "value": 0.6984,
                    "ci95": 0.008,
                    "label": "P=100",
                },
                {"stage": "protonets", "metric": "accuracy", "way": 5, "shot": 1, "value": 0.68, "label": "other"},
            ],
        },
        environment={"versions": {"torch": "2.15.0"}, "device": "cpu", "wall_seconds": 90.0},
        data={
            "images": 32460,
            "size": [28, 28],
            "splits": {"train": 22000},
            "split_check": "no group is in two splits",
        },
        candidates=({"conditions": {"stages.maml.alpha": 0.1}, "score": 0.61, "chosen": True},),
    )


@pytest.fixture(scope="module")
def html(report: RunReport) -> str:
    return render_html(report)


class Page(HTMLParser):
    """What a page holds: its elements with their attributes, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br", "path", "use", "rect", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in {"path", "use", "rect"}:
            return
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_numbers_hold_rows_pairs_and_recipes_but_no_time(report: RunReport) -> None:
    made = metrics_json(report)
    assert made["fewcore"] == __version__
    assert made["rows"][0] == {
        "metric": "accuracy", "value": 0.6884, "ci95": [0.6884 - 0.008, 0.6884 + 0.008], "n": 1000, "stage": "maml",
        "method": "maml", "way": 5, "shot": 1, "split": "test", "norm": "transductive", "seen": "labels: none",
        "note": "", "evaluator": "score",
    }  # fmt: skip
    assert made["comparisons"][0]["first"] == "maml"
    assert made["versions"] == {"torch": "2.15.0"}
    assert made["stages"][0]["key"] == "maml-0123456789abcdef"
    slower = replace(
        report,
        stages=tuple(replace(s, seconds=9.0, peak_memory_mb=1.0, status="reused") for s in report.stages),
        environment={**report.environment, "wall_seconds": 1.0},
    )
    assert metrics_json(slower) == made


def test_equal_runs_write_equal_bytes_with_sorted_keys_and_null_for_nan(tmp_path: Path, report: RunReport) -> None:
    nan = replace(report, reports={"score": MetricReport((row("maml", math.nan), row("knn", 0.5, math.nan)))})
    for name in ("one", "two"):
        write_report(nan, tmp_path / name)
    for name in ("metrics.json", "metrics.csv", "report.html", "report.md", "environment.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    made = json.loads((tmp_path / "one" / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert made["rows"][0]["value"] is None
    assert made["rows"][1]["ci95"] == [None, None]
    assert list(made) == sorted(made)
    assert list(made["rows"][0]) == sorted(made["rows"][0])


def test_numpy_numbers_become_plain_json(report: RunReport) -> None:
    odd = row("maml", 0.5, conditions={"way": np.int64(5), "share": np.float32(0.5), "parts": np.arange(2)})
    made = metrics_json(replace(report, reports={"score": MetricReport((odd,))}))["rows"][0]
    assert (made["way"], made["share"], made["parts"]) == (5, 0.5, [0, 1])
    json.dumps(made, allow_nan=False)


def test_files_are_whole_and_nothing_else_is_left(tmp_path: Path, report: RunReport) -> None:
    write_report(report, tmp_path)
    write_report(report, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"metrics.json", "metrics.csv", "report.html", "report.md", "environment.json"}
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["stages"][0]["seconds"] == 75.0
    assert environment["stages"][0]["peak_memory_mb"] == 512.0
    assert environment["command"] == "fewcore run omniglot.yaml"


def test_csv_has_a_column_a_field_and_starts_no_formula(tmp_path: Path, report: RunReport) -> None:
    more = (row("=cmd()", 0.5, conditions={"way": 5, "labels.share": 0.1}), row("maml", -0.25))
    write_report(replace(report, reports={"score": MetricReport(more)}), tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["stage"] == "'=cmd()"
    assert rows[0]["labels.share"] == "0.1"
    assert rows[0]["shot"] == ""
    assert rows[1]["value"] == "-0.25"
    assert float(rows[1]["ci95_low"]) == -0.258


def test_the_results_stand_beside_the_papers_with_the_best_of_each_kind_stressed(report: RunReport) -> None:
    (table,) = results_tables(report)
    assert [head.text for head in table.columns] == ["model", "5-way 1-shot"]
    assert table.columns[1].note == "accuracy (%)\nchance 20.0"
    cells = {row[0].text: row[1] for row in table.rows}
    assert cells["maml"].text == "68.8 ± 0.8"
    assert cells["maml"].note == "paper 69.8 (-1.0)"
    assert cells["knn"].note == ""
    # maml is the best that saw no label; oracle has no rival among those that did.
    assert {name for name, cell in cells.items() if cell.best} == {"maml"}


def test_small_errors_are_best_and_other_metrics_have_three_digits(report: RunReport) -> None:
    rows = tuple(
        MetricRow("mae", value, (value - 0.05, value + 0.02), 9, name, "lasso")
        for name, value in (("a", 0.4567), ("b", 1.5))
    )
    (table,) = results_tables(replace(report, reports={"score": MetricReport(rows)}))
    assert [row[1].text for row in table.rows] == ["0.457 (0.407 to 0.477)", "1.50 (1.45 to 1.52)"]
    assert [row[1].best for row in table.rows] == [True, False]
    assert [row[0].note for row in table.rows] == ["lasso", "lasso"]


def test_cells_of_a_matrix_are_lines_of_their_own_and_the_best_is_of_equal_conditions(report: RunReport) -> None:
    rows = tuple(
        row(name, value, conditions={"labels.share": share, "way": 2})
        for name, share, value in (("a", 0.1, 0.6), ("a", 0.5, 0.7), ("b", 0.1, 0.5), ("b", 0.5, 0.8), ("a", 0.5, 0.1))
    )
    (table,) = results_tables(replace(report, reports={"score": MetricReport(rows)}))
    assert [(row[0].note, row[1].best) for row in table.rows] == [
        ("labels.share 0.1", True),
        ("labels.share 0.5", False),
        ("labels.share 0.1", False),
        ("labels.share 0.5", True),
        ("labels.share 0.5", False),
    ]


def test_methods_that_take_turns_in_one_stage_stand_under_their_own_names(report: RunReport) -> None:
    rows = tuple(
        replace(
            row("model", 0.6, conditions={"stages.model": name, "labels.share": 0.1}),
            method=name,
            repeats={"seed": "0, 1"},
        )
        for name in ("s4mtl", "u-net")
    )
    (table,) = results_tables(replace(report, reports={"score": MetricReport(rows)}))
    assert [(row[0].text, row[0].note) for row in table.rows] == [
        ("s4mtl", "labels.share 0.1"),
        ("u-net", "labels.share 0.1"),
    ]
    assert table.note.startswith("Each number: seed 0, 1. ")


def test_variants_of_one_method_stand_under_their_own_names(report: RunReport) -> None:
    rows = tuple(
        replace(row("model", 0.6, conditions={"stages.model": name}), method="u-net") for name in ("u-net", "long")
    )
    (table,) = results_tables(replace(report, reports={"score": MetricReport(rows)}))
    assert [(row[0].text, row[0].note) for row in table.rows] == [("u-net", ""), ("long", "u-net")]


def repeated(report: RunReport) -> RunReport:
    """Two seeds and their mean of each of two models."""
    rows = tuple(
        replace(row(name, value + shift), repeats={"seed": seed, "fold": "all 4"})
        for name, value in (("maml", 0.7), ("knn", 0.5))
        for seed, shift in ((0, 0.1), (1, -0.1), ("mean of 2", 0.0))
    )
    return replace(report, reports={"score": MetricReport(rows)})


def test_means_stand_for_their_repeats_which_are_folded_away(report: RunReport) -> None:
    main, single = results_tables(repeated(report))
    assert [(row[0].text, row[0].note, row[1].text) for row in main.rows] == [
        ("maml", "", "70.0 ± 0.8"),
        ("knn", "", "50.0 ± 0.8"),
    ]
    assert main.note.startswith("Each number: mean of 2 seeds, all 4 folds. ")
    assert [row[0].note for row in single.rows] == [f"seed {seed}, all 4 folds" for seed in (0, 1, 0, 1)]
    assert (main.folded, single.folded) == (False, True)
    assert not any(row[1].best for row in single.rows)


def test_the_headline_and_the_papers_table_speak_of_means_not_of_the_luckiest_seed(report: RunReport) -> None:
    (told,) = headline(repeated(report))
    assert "maml (mean of 2 seeds, all 4 folds) reaches 70.0" in told
    numbers = paper_table(repeated(report))
    assert [cell.text for cell in numbers.rows[0]] == [
        "maml",
        "accuracy, 5-way 1-shot (%)",
        "70.0 ± 0.8",
        "69.8 ± 0.8",
        "+0.2",
    ]


@pytest.mark.parametrize(
    ("p", "verdict"),
    [
        (0.0004, "a paired test tells them apart: p < 0.001 after Holm's correction"),
        (0.2, "which may be chance: p = 0.200 after Holm's correction"),
    ],
)
def test_the_headline_says_what_the_paired_test_says_of_the_next_best(
    report: RunReport, p: float, verdict: str
) -> None:
    (made,) = report.reports.values()
    pair = replace(made.comparisons[0], p_holm=p)
    told = headline(replace(report, reports={"score": replace(made, comparisons=(pair,))}))[0].replace("\u00a0", " ")
    assert "Of 2 models that saw no label this is the best number; next is knn with 57.5 ± 1.3 % " in told
    assert verdict in told


def test_the_headline_calls_nothing_tested_that_was_compared_elsewhere(report: RunReport) -> None:
    (made,) = report.reports.values()
    pair = replace(made.comparisons[0], conditions={"way": 20, "shot": 1})
    told = headline(replace(report, reports={"score": replace(made, comparisons=(pair,))}))[0]
    assert "Holm" not in told


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ("labels: none", "training images without labels, maml"),
        ("labels: 60 training", "training images with the labels of 60 training images, maml"),
        ("labels: 22000 training", "From 22,000 training images, all labelled, maml"),
        (
            "labels: 22000 training + 20 validation",
            "From 22,000 training images, all labelled, and 20 validation images with labels, maml",
        ),
        (
            "labels: none (monitored only: 297 validation); transductive: embed",
            "The labels of 297 validation images were used to watch it, not to teach it. "
            "It was fitted on the very images on which it is judged (embed).",
        ),
    ],
)
def test_the_headline_says_in_plain_words_what_a_model_saw(report: RunReport, seen: str, said: str) -> None:
    (told,) = headline(replace(report, reports={"score": MetricReport((row("maml", 0.6, seen=seen),))}))
    assert said in told


def wide(report: RunReport) -> RunReport:
    """A segmentation with a dozen metrics of three structures each."""
    metrics = [
        f"{metric}_{part}" for metric in ("dice", "jaccard", "ssim", "hausdorff") for part in ("lung", "heart", "rib")
    ]
    rows = tuple(
        replace(row(name, 0.8, 0.01, conditions={"labels.share": 0.1}), metric=metric)
        for name in ("s4mtl", "u-net-long")
        for metric in metrics
    )
    return replace(report, reports={"masks": MetricReport(rows), "classes": MetricReport((row("s4mtl", 0.6),))})


@pytest.mark.parametrize(("width", "shown"), [(80, 3), (120, 6), (400, 12)])
def test_the_terminal_shows_the_columns_that_fit_whole_and_counts_the_rest(
    report: RunReport, width: int, shown: int
) -> None:
    stream = io.StringIO()
    Console(width=width, file=stream).print(summary_table(wide(report)))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    head = next(line for line in lines if "model" in line)
    assert sum(head.lower().count(metric) for metric in ("dice", "jaccard", "ssim", "hausdorff")) == shown
    assert (f"{12 - shown} more columns: see metrics.csv" in stream.getvalue()) == (shown < 12)
    assert any("Omniglot: Results of classes" in line for line in lines)
    assert any("u-net-long" in line for line in lines)


def test_each_evaluator_has_a_table(report: RunReport) -> None:
    made = {"first": MetricReport((row("maml", 0.5),)), "second": MetricReport((row("maml", 0.6),))}
    first, second = results_tables(replace(report, reports=made))
    assert (first.title, first.rows[0][1].text) == ("Results of first", "50.0 ± 0.8")
    assert (second.title, second.rows[0][1].text) == ("Results of second", "60.0 ± 0.8")


def test_the_terminal_shows_the_same_results(report: RunReport) -> None:
    stream = io.StringIO()
    Console(width=100, file=stream).print(summary_table(replace(report, title="[bold]\x1b[2J" + report.title)))
    text = stream.getvalue()
    assert "[bold] [2JOmniglot" in text
    assert "68.8 ± 0.8" in text
    assert "paper 69.8 (-1.0)" in text


def test_the_page_has_no_outside_resource_and_is_well_formed(html: str) -> None:
    page = Page(html)
    assert page.open == []
    links = [a[key] for _, a in page.elements for key in ("src", "href", "xlink:href", "data", "action") if a.get(key)]
    assert links
    assert all(link is not None and link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not re.search(r"@import|url\((?!#)", html)
    assert not page.all("link")
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert any(m.get("name") == "viewport" for m in page.all("meta"))


def test_every_figure_says_what_it_shows(html: str) -> None:
    page = Page(html)
    assert all(image.get("alt") for image in page.all("img"))
    named = [div for div in page.all("div") if div.get("role") == "img"]
    assert all(div.get("aria-label") for div in named)
    assert len(named) == len(page.all("svg")) == 6  # results, two learning panels, curves, the map, a model
    said = " ".join(div["aria-label"] or "" for div in named)
    assert "training accuracy from 50.0 at step 1 to 50.0 at step 59" in said
    assert len(page.all("img")) == 1 + 3 + 2 * 3 + 2 * 3


def test_sections_answer_in_the_order_of_the_questions(html: str) -> None:
    page = Page(html)
    names = [section["id"] for section in page.all("section")]
    assert names == [
        "results", "seen", "tests", "curves", "choice", "learning", "data", "partitions", "tasks", "map", "models", "stages", "again"
    ]  # fmt: skip
    assert "no group is in two splits" in page.text
    assert "fewcore run omniglot.yaml" in page.text
    assert "queries help each other" in page.text
    assert "not another seed of the training" in page.text
    said = page.text.replace("\u00a0", " ")
    assert "From 22,000 training images without labels, maml reaches 68.8 ± 0.8 % accuracy on 1000 5-way" in said
    assert "1-shot tasks (chance: 20 %); the paper reports 69.8 %." in said
    assert "From 22,000 training images with the labels of 60 training images, oracle reaches 94.5 ± 0.8 % acc" in said


def test_tables_sort_by_the_pages_only_script(html: str) -> None:
    page = Page(html)
    assert len(page.all("script")) == 1
    assert "aria-sort" in page.scripts[0]
    assert any(cell.get("data-sort") == "0.6884" for cell in page.all("td"))
    assert page.all("button")


def test_failures_stand_first(report: RunReport) -> None:
    stages = (
        *report.stages,
        stage("scratch", status="failed", error="NumericalError: loss is nan", conditions={"seed": 1}),
    )
    broken = replace(
        report,
        stages=stages,
        failures=("seed 1: stopped",),
        reports={"score": MetricReport((), left_out=("protonets",))},
    )
    page = Page(render_html(broken))
    assert page.all("section")[0]["id"] == "missing"
    for text in (
        "Partial report: what is missing",
        "seed 1: stopped",
        "scratch (seed 1) failed: NumericalError: loss is nan",
    ):
        assert text in page.text
        assert text in render_markdown(broken)
    assert "no numbers for protonets" in page.text
    assert "No evaluator has given a number." in page.text


def test_a_group_in_two_splits_is_said_first_and_in_the_data(report: RunReport) -> None:
    leaky = replace(report, data={**report.data, "split_check": "a group is in train and test"})
    page = Page(render_html(leaky))
    assert page.all("section")[0]["id"] == "missing"
    assert "Read with care" in page.text
    assert "a group is in train and test: numbers on test rows may be too good" in page.text
    assert "Split check failed: a group is in train and test" in page.text
    assert "Split check passed: no group is in two splits" in render_html(report)


def test_what_a_reused_stage_cost_is_said_and_that_it_cost_it_then(report: RunReport) -> None:
    text = render_markdown(report)
    assert "2 stages: 1 computed, 1 reused." in text
    assert "| reused | 1:15<br>when computed | 512 MB |" in text


def test_runs_that_stop_early_do_not_bend_the_end_of_a_mean_curve(report: RunReport) -> None:
    def curve(loss: float, n: int) -> tuple[dict[str, Any], ...]:
        return tuple({"loop": "train", "step": step, "loss": loss} for step in range(n))

    stages = tuple(stage("maml", key=key, records=curve(loss, n)) for key, loss, n in (("a", 1.0, 9), ("b", 3.0, 5)))
    (drawing,) = learning_drawings(stages)
    assert drawing.alt == "Learning curves of maml: loss from 2.00 at step 0 to 2.00 at step 4."


def test_many_curves_stand_in_panels_of_six_under_what_tells_them_apart(report: RunReport) -> None:
    names = [
        f"roc of model, labels.share {share}, seed {seed}, fold all 4" for share in (0.1, 0.5) for seed in range(4)
    ]
    made = curve_drawings({"classes": MetricReport((), curves=dict.fromkeys(names, CURVE))})
    assert [len(drawing.keys) for drawing in made] == [4, 4]
    assert made[0].keys[0].label == "labels.share 0.1, seed 0"
    assert made[0].title == "classes: true positive rate against false positive rate (roc of model, fold all 4)"


def test_variants_of_one_stage_are_tested_under_their_own_names(report: RunReport) -> None:
    pair = Comparison("dice", "model [s4mtl]", "model [u-net]", 0.1, (0.05, 0.15), 0.01, 0.02, 9, "paired t")
    table = comparison_table(replace(report, reports={"masks": MetricReport((), (pair,))}))
    assert table.rows[0][0].text == "s4mtl − u-net"
    mixed = replace(pair, second="knn")
    table = comparison_table(replace(report, reports={"masks": MetricReport((), (pair, mixed))}))
    assert [row[0].text for row in table.rows] == ["model [s4mtl] − model [u-net]", "model [s4mtl] − knn"]


def test_a_model_is_counted_once_whatever_it_is_asked(report: RunReport) -> None:
    rows = (
        *(row("graph", 0.8, conditions={"attribute": name}) for name in ("malignancy", "texture")),
        *(row("model", 0.8, conditions={"stages.model": name}) for name in ("a", "b")),
        row("majority", 0.5, seen=""),
    )
    assert dict(tiles(replace(report, reports={"score": MetricReport(rows)})))["models judged"] == "3"


def test_hostile_names_are_text_everywhere(report: RunReport, tmp_path: Path) -> None:
    rows = (row(HOSTILE, 0.5, seen=HOSTILE, note=HOSTILE, conditions={HOSTILE: HOSTILE}), row("maml", 0.6))
    hostile = RunReport(
        name=HOSTILE,
        pipeline=f"name: {HOSTILE}\n````\n# no heading",
        command=HOSTILE,
        title=HOSTILE,
        stages=(
            stage(HOSTILE, records=({"loop": HOSTILE, "step": 1, HOSTILE: 1.0},) * 2, status="failed", error=HOSTILE),
        ),
        reports={
            HOSTILE: MetricReport(
                rows, curves={HOSTILE: {**CURVE, "x_label": HOSTILE, "y_label": "$x_{"}}, left_out=(HOSTILE,)
            )
        },
        pictures=pictures(HOSTILE),
        published={
            "source": HOSTILE,
            "rows": [{"stage": HOSTILE, "metric": "accuracy", "value": 0.4, "label": HOSTILE}],
        },
        environment={HOSTILE: HOSTILE, "device": HOSTILE},
        data={HOSTILE: {HOSTILE: 1}},
        candidates=({"conditions": {HOSTILE: HOSTILE}, "score": 1.0, "chosen": False},),
        failures=(HOSTILE,),
    )
    write_report(hostile, tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert page.open == []
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    outside = re.sub(r"^(`{3,})$.*?^\1$", "", (tmp_path / "report.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside
    assert not re.search(r"(?<!\\)\]\(javascript", outside)
    assert "\x1b" not in outside
    assert "# no heading" not in outside
    stream = io.StringIO()
    Console(file=stream).print(summary_table(hostile))
    assert "\x1b" not in stream.getvalue()


def test_markdown_tells_the_same(report: RunReport) -> None:
    text = render_markdown(report)
    assert "| maml | **68.8 ± 0.8**<br>paper 69.8 (-1.0) |" in text
    assert "## Paired tests" in text
    assert "- Learning curves of maml" in text
    assert "not run" in text
    assert "```\nfewcore: 1\nname: omniglot\n```" in text


def test_a_headline_speaks_of_the_attribute_that_was_asked_for(report: RunReport) -> None:
    rows = (
        row("graph", 0.8, conditions={"attribute": "malignancy"}),
        row("graph", 0.9, conditions={"attribute": "texture"}),
        row("ridge", 0.7, conditions={"attribute": "malignancy"}),
    )
    (told,) = headline(replace(report, reports={"score": MetricReport(rows)}))
    assert "graph" in told
    assert "80.0" in told


@pytest.mark.parametrize(("share", "beaten"), [(0.85, True), (0.75, False)])
def test_the_headline_says_where_the_best_model_is_no_better_than_the_commonest_class(
    report: RunReport, share: float, beaten: bool
) -> None:
    rows = (row("maml", 0.8, conditions={}), row("majority", share, conditions={}, seen=""))
    (told,) = headline(replace(report, reports={"score": MetricReport(rows)}))
    ending = " That is no better than majority (85.0 ± 0.8 %), which learns nothing."
    assert told.replace("\u00a0", " ").endswith(ending) == beaten
    assert ("learns nothing" in told) == beaten


@pytest.mark.parametrize("notes", [("too sure",) * 2, ("too sure", "")])
def test_a_note_that_holds_for_all_tests_stands_once_below_the_table(report: RunReport, notes: tuple[str, str]) -> None:
    tests = tuple(
        StatisticalTest("auc", f"a - {i}", "t-test", 1.0, 0.2, math.nan, 9, note=n) for i, n in enumerate(notes)
    )
    table = other_tests_table(replace(report, reports={"score": MetricReport((), tests=tests)}))
    beside = [row[2].note for row in table.rows]
    # None of them is corrected, so that nothing is said of what is bold.
    assert (beside, table.note) == ((["", ""], "Too sure.") if len(set(notes)) == 1 else (["too sure", ""], ""))


def test_a_failed_stage_is_listed_once_and_a_missing_one_too(report: RunReport) -> None:
    stages = (stage("embed", status="failed", error="no spread"), stage("tuned", status="missing"))
    text = render_markdown(replace(report, stages=stages, failures=("embed: no spread",))).partition("## Results")[0]
    assert text.count("no spread") == 1
    assert "- tuned missing: what it needs is missing" in text


@pytest.mark.parametrize(("n", "folded"), [(3, False), (100, True)])
def test_many_paired_tests_are_folded_away(report: RunReport, n: int, folded: bool) -> None:
    pairs = tuple(Comparison("accuracy", "a", f"b{i}", 0.1, (0.0, 0.2), 0.04, 0.04, 50, "paired t") for i in range(n))
    html = render_html(replace(report, reports={"score": MetricReport((row("maml", 0.8),), pairs)}))
    assert (f"<summary>All {n} paired tests</summary>" in html) == folded


def test_an_empty_run_still_has_a_report(tmp_path: Path) -> None:
    empty = RunReport("nothing", "", "", "", (), {}, (), {}, {}, {}, failures=("data: no such folder",))
    write_report(empty, tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert [section["id"] for section in page.all("section")] == ["missing", "results"]
    stream = io.StringIO()
    Console(file=stream).print(summary_table(empty))
    assert stream.getvalue() == ""


def test_curves_of_cells_are_drawn_once_a_key_with_their_mean(report: RunReport) -> None:
    def curve(loss: float) -> tuple[dict[str, Any], ...]:
        return tuple({"loop": "train", "step": s, "loss": loss} for s in (1, 2))

    stages = tuple(stage("maml", key=key, records=curve(loss)) for key, loss in (("a", 1.0), ("a", 1.0), ("b", 4.0)))
    assert "loss from 2.50 at step 1 to 2.50 at step 2" in render_html(replace(report, stages=stages))


def test_a_number_that_is_varied_is_an_axis(report: RunReport) -> None:
    rows = tuple(row(n, s, conditions={"labels.share": s}) for n in ("a", "b") for s in (0.1, 0.2, 0.5))
    text = render_markdown(replace(report, reports={"score": MetricReport(rows)}))
    assert "accuracy along labels.share: a from 10.0 to 50.0; b from 10.0 to 50.0." in text


def test_results_are_drawn_against_the_number_of_tasks(report: RunReport) -> None:
    embed, order = "stages.embed", "stages.tasks"
    rows = tuple(
        row("tuned", k / 10, conditions={embed: str(k), order: o}, seen="")
        for k in (3, 4, 5)
        for o in ("random", "bandit")
    )
    rows += (row("clusters", 0.5, conditions={embed: "3"}), row("scratch", 0.4, conditions={}))
    sizes = {"3": (6,), "4": (25, 23), "5": (90,)}
    counts = [
        TaskCount("tuned", {embed: k, order: o}, n) for k in sizes for o in ("random", "bandit") for n in sizes[k]
    ]
    # A model whose list is the same everywhere makes no curve.
    counts += [TaskCount("scratch", {embed: k, order: "random"}, 6) for k in sizes]
    changed = replace(report, reports={"score": MetricReport(rows)}, task_counts=tuple(counts))
    (drawn,) = [one for one in result_drawings(changed) if "number of tasks" in one.title]
    assert drawn.title == "accuracy against number of tasks"
    curve = "tuned, stages.tasks {} from 30.0 to 50.0"
    assert drawn.alt == f"accuracy along number of tasks: {curve.format('random')}; {curve.format('bandit')}."
    places = places_by_tasks(changed.task_counts, results_of(changed)[0].main)
    assert [place.x for place in places] == [6, 24, 90] * 2
    assert {place.line.stage for place in places} == {"tuned"}


def test_figures_take_the_pages_ink_and_leave_no_global_state(report: RunReport) -> None:
    before = dict(matplotlib.rcParams)
    text = render_html(replace(report, pictures=()))
    assert dict(matplotlib.rcParams) == before
    assert "currentColor" in text
    assert "var(--c0)" in text
    assert "#010203" not in text
    assert "<metadata" not in text
    ids = [a["id"] for _, a in Page(text).elements if a.get("id")]
    assert len(ids) == len(set(ids))


def test_a_sheet_shows_the_middle_slice_and_stretches_floats() -> None:
    volume = np.zeros((1, 1, 3, 2, 2), np.float32)
    volume[0, 0, 1] = [[-5.0, 5.0], [0.0, np.nan]]
    strip = sheet_of(Picture("data", "Volume", "data", "", volume)).rows[0][1][0]
    assert (strip.width, strip.height) == (64, 64)
    assert strip.alt == "Volume, sample: 1 image"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(strip.uri.split(",")[1]))).convert("L"))
    assert [int(pixels[i, j]) for i in (0, 63) for j in (0, 63)] == [0, 255, 128, 128]


def test_a_sheet_whose_groups_do_not_fit_is_refused() -> None:
    images = np.zeros((3, 1, 4, 4), np.uint8)
    with pytest.raises(DataError, match="picture 'P': found 2 groups, 3 roles; expected 3 of each"):
        sheet_of(Picture("data", "P", "data", "", images, np.zeros(2, int)))
    with pytest.raises(DataError, match=re.escape("picture 'P': found no images; expected (m, c, h, w)")):
        sheet_of(Picture("data", "P", "data", ""))


def test_a_single_logged_point_is_no_curve(report: RunReport) -> None:
    def drawn(n: int) -> int:
        records = tuple({"loop": "partitions", "step": step + 1, "inertia": 4.0} for step in range(n))
        return len(learning_drawings([stage("one", records=records)]))

    assert (drawn(0), drawn(1), drawn(2)) == (0, 0, 1)
