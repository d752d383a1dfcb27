"""The evaluator of masks in a whole run: the pipeline of masks and classes over shares of labels, in toy components."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fewcore import Component, Offer
from fewcore.pipeline import load
from fewcore.plugins import Registry
from fewcore.reports.page import render_html, render_markdown
from fewcore.reports.reporting import build_report

SHAPES = Path(__file__).parents[3] / "tests" / "shapes"
OURS = Component("segmentation", "fewcore_medical.segmentation:Segmentation", "masks")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Run the shape once, with our evaluator in the place of the toy of its name, on images of 4 x 4 pixels."""
    sys.path.insert(0, str(SHAPES))
    try:
        import toys
        from running import Ran
    finally:
        sys.path.remove(str(SHAPES))
    offers = [offer for offer in toys.registry().offers if offer.name != "segmentation"]
    registry = Registry((*offers, Offer("evaluator", OURS, "fewcore-medical", "0.1")))
    changes = {"stages.masks.ssim_window": 3, "stages.masks.reference": ["stages.model=s4mtl", "labels.share=0.5"]}
    pipeline = load(SHAPES / "e.yaml", registry, overrides=changes)
    return pipeline, Ran(pipeline, tmp_path_factory.mktemp("e"))


def test_every_model_with_masks_has_its_rows_and_no_other(ran):
    report = ran[1].result.reports["masks"]
    assert not ran[1].result.failures
    models = {(row.conditions["stages.model"], row.conditions["labels.share"]) for row in report.rows}
    assert len(models) == 6 * 4 - 2  # conv-net makes no masks; two cells are skipped
    assert {row.metric for row in report.rows} >= {
        "dice",
        "jaccard",
        "ssim",
        "average_hausdorff",
        "precision",
        "recall",
    }
    assert report.left_out == ()
    dice = [row for row in report.rows if row.metric == "dice"]
    assert all(row.ci95[0] <= row.value <= row.ci95[1] for row in dice)
    assert all(row.note.startswith("pixels of all images") for row in dice)


def test_more_labels_give_better_masks_and_the_tests_know(ran):
    def dice(share):
        return ran[1].row(metric="dice", stages__model="u-net", labels__share=share).value

    assert dice(0.05) < dice(1.0)
    found = ran[1].result.reports["masks"]
    assert {c.test for c in found.comparisons} == {"paired t", "Wilcoxon signed-rank"}
    assert any("against" in c.conditions and c.p_holm < 0.05 for c in found.comparisons)
    assert {t.test for t in found.tests} == {"one-way ANOVA", "independent t (Welch)", "Pearson"}


def test_the_choice_on_validation_is_made_by_dice(ran):
    chosen = [c for c in ran[1].result.candidates if c["chosen"]]
    assert chosen
    assert all(np.isfinite(c["score"]) for c in ran[1].result.candidates)


def test_the_page_shows_tests_and_figures_in_both_forms(ran):
    pipeline, run = ran
    report = build_report(pipeline, run.session, run.result, command="", seconds=1.0)
    html, text = render_html(report), render_markdown(report)
    for title in (
        "Dice along labels.share",
        "Dice by the class of the image",
        "Bland-Altman: s4mtl",
        "Contours on test",
    ):
        assert f"<figcaption>{title}" in html
        assert title in text
    assert "could not draw" not in html
    assert re.search(r'href="data:image/png;base64,\s*iVBOR', html)
    assert "Tests over models and between classes" in text
