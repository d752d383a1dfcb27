"""The page in a real browser: no error, no request, figures that can be seen, tables that sort, phone, dark and print."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewcore import Comparison, Figure, MetricReport, MetricRow
from fewcore.reports.page import render_html
from fewcore.reports.report import Picture, RunReport, StageRecord

sync_api = pytest.importorskip("playwright.sync_api", reason="to test the page in a browser: pip install playwright")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(browser_path is None, reason="no browser: apt-get install chromium")

SHARES = (0.1, 0.2, 0.5)
METRICS = (
    "dice",
    "jaccard",
    "ssim",
    "hausdorff",
    "precision",
    "recall",
    "accuracy",
    "auc",
    "sensitivity",
    "specificity",
)


def made_report() -> RunReport:
    """A run with everything: paper's numbers, a failed stage, many metrics, long tables, figures and images."""
    rng = np.random.default_rng(0)
    few_shot = [
        MetricRow(
            "accuracy",
            value,
            (value - half, value + half),
            300,
            name,
            name,
            seen=seen,
            conditions={"way": 5, "shot": 1},
        )
        for name, value, half, seen in (
            ("protonets", 0.681, 0.008, "labels: none"),
            ("maml", 0.0953, 0.02, "labels: none"),
            ("oracle", 0.944, 0.01, "labels: 60 training"),
        )
    ]
    wide = [
        MetricRow(
            metric,
            0.5 + share / 4,
            (0.4, 0.8),
            40,
            "model",
            name,
            conditions={"labels.share": share, "stages.model": name},
        )
        for name in ("s4mtl", "u-net")
        for share in SHARES
        for metric in METRICS
    ]
    pairs = tuple(
        Comparison(
            "accuracy",
            "protonets",
            f"rival {i}",
            0.02 * i - 0.3,
            (0.02 * i - 0.4, 0.02 * i),
            0.01,
            0.04,
            300,
            "paired t",
        )
        for i in range(30)
    )
    contours = Figure(
        "Contours",
        "Two contours of one image.",
        lambda axes: axes.plot([0, 1], [0, 1]),
        (("truth", "C2", "line"),),
        (9.0, 3.0),
    )
    images = rng.integers(0, 255, (24, 1, 16, 16), dtype=np.uint8)
    groups, roles = np.repeat([0, 1], 12), np.tile([0, 1, 1], 8)
    curves = tuple({"loop": "train", "step": step, "loss": 1 / step} for step in range(1, 50))
    stages = tuple(
        StageRecord(
            name, "meta_learner", name, "fewcore-meta", "0.1.0", {}, 0, "train", {}, f"{name}0123456789", status, 80.0, 900.0,
            "labels: none", {}, curves, error,
        )
        for name, status, error in (
            ("protonets", "computed", ""), ("maml", "reused", ""), ("scratch", "failed", "NumericalError: loss is nan")
        )
    )  # fmt: skip
    return RunReport(
        name="browser",
        pipeline="\n".join(["fewcore: 1", "name: browser", "stages:", *(f"  s{i}: {{dataset: digits}}" for i in range(9))]),
        command="fewcore run browser.yaml --device cpu --out a/rather/long/path/to/a/folder/that/does/not/fit/on/a/phone",
        title="Browser",
        stages=stages,
        reports={"score": MetricReport(tuple(few_shot), pairs), "masks": MetricReport(tuple(wide), figures=(contours,))},
        pictures=(
            Picture("data", "Images", "data", "Drawn at random.", images, groups, ("train", "test")),
            Picture("tasks", "Tasks", "tasks", "", images, groups, ("class 1", "class 2"), roles),
            Picture("map", "Map", "embed", "Two directions.", None, groups, ("a", "b"), None, rng.normal(size=(24, 2))),
        ),
        published={"source": "Table 1", "rows": [{"stage": "maml", "metric": "accuracy", "way": 5, "shot": 1, "value": 0.99}]},
        environment={"device": "cpu", "versions": {"torch": "2.15.0"}, "wall_seconds": 90.0},
        data={"images": 24, "size": [1, 16, 16], "splits": {"train": 12, "test": 12}, "split_check": "no group is in two splits"},
    )  # fmt: skip


@dataclass
class Opened:
    """A page in the browser, what it wrote to the console, and what it asked the network for."""

    page: Any
    said: list[str]
    asked: list[str]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_html(made_report()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Chromium's sandbox is not to be had in most containers; the page is our own.
        started = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, file: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    """The page at 1280 pixels, or as the test's parameter says."""
    look = {"viewport": {"width": 1280, "height": 900}, **getattr(request, "param", {})}
    context = browser.new_context(**look)
    made = Opened(context.new_page(), [], [])
    made.page.on("console", lambda message: made.said.append(f"{message.type}: {message.text}"))
    made.page.on("pageerror", lambda error: made.said.append(f"error: {error}"))
    made.page.on("request", lambda asked: made.asked.append(asked.url))
    made.page.goto(file.as_uri())
    yield made
    context.close()


PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True}
DARK = {"color_scheme": "dark"}


@pytest.mark.parametrize("opened", [{}, PHONE, DARK], indirect=True, ids=["desktop", "phone", "dark"])
def test_it_opens_in_silence_and_asks_for_nothing(opened: Opened, file: Path) -> None:
    opened.page.wait_for_load_state("networkidle")
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:image/png;base64,")] == [file.as_uri()]


def test_the_policy_lets_no_other_script_run(opened: Opened) -> None:
    opened.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))"
    )
    assert opened.page.evaluate("window.ran === undefined")
    assert any("Content Security Policy" in text for text in opened.said)


@pytest.mark.parametrize("opened", [{}, PHONE], indirect=True, ids=["desktop", "phone"])
def test_every_figure_can_be_seen_and_says_what_it_shows(opened: Opened) -> None:
    opened.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    figures = opened.page.evaluate(
        """Array.from(document.querySelectorAll("[role=img], img"), (each) => {
             const box = (each.querySelector("svg") ?? each).getBoundingClientRect();
             const whole = each.tagName !== "IMG" || (each.complete && each.naturalWidth > 0);
             return [each.alt ?? each.ariaLabel, box.width, box.height, whole];
           })"""
    )
    results, contours, learning, maps, samples, tasks = 1 + 8, 1, 3, 1, 2, 4
    assert len(figures) == results + contours + learning + maps + samples + tasks
    for said, width, height, whole in figures:
        assert len(said) > 10
        assert min(width, height) > 30
        assert whole


SORT = """(name) => {
  const table = Array.from(document.querySelectorAll("table")).find((each) => each.caption.textContent === name);
  return Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells, (cell) => cell.firstChild.textContent.trim()));
}"""


def column(opened: Opened, table: str, index: int) -> list[str]:
    return [row[index] for row in opened.page.evaluate(SORT, table)]


def test_a_click_sorts_numbers_by_value_whatever_stands_beside_them(opened: Opened) -> None:
    head = opened.page.get_by_role("region", name="Results of score").get_by_role("columnheader").nth(1)
    names = lambda: column(opened, "Results of score", 0)  # noqa: E731
    assert names() == ["protonets", "maml", "oracle"]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names() == ["oracle", "protonets", "maml"]  # the paper's 99.0 below maml's 9.5 counts for nothing
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert names() == ["maml", "protonets", "oracle"]


def test_intervals_below_and_above_zero_sort_by_their_lower_end(opened: Opened) -> None:
    button = opened.page.get_by_role("region", name="Paired tests").get_by_role("button", name="95% interval")
    button.click()
    lows = [float(text.split(" to ")[0]) for text in column(opened, "Paired tests", 3)]
    assert lows == sorted(lows, reverse=True)
    assert lows[0] > 0 > lows[-1]


def test_text_sorts_from_the_keyboard_both_ways_and_one_head_at_a_time(opened: Opened) -> None:
    region = opened.page.get_by_role("region", name="Paired tests")
    region.get_by_role("button", name="difference").click()
    button = region.get_by_role("button", name="pair", exact=True)
    button.focus()
    opened.page.keyboard.press("Enter")
    names = [f"protonets − rival {i}" for i in range(30)]  # 2 before 10
    assert column(opened, "Paired tests", 0) == names
    opened.page.keyboard.press("Space")
    assert column(opened, "Paired tests", 0) == names[::-1]
    assert region.locator("th[aria-sort]").count() == 1


def test_a_copy_button_copies_what_is_to_be_typed(opened: Opened) -> None:
    opened.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.locator("#again").get_by_role("button", name="Copy").first.click()
    opened.page.get_by_role("button", name="Copied").wait_for()
    assert opened.page.evaluate("navigator.clipboard.readText()") == made_report().command
    opened.page.get_by_text("pipeline.yaml, with every option").click()
    opened.page.locator("#again details").get_by_role("button", name="Copy").click()
    opened.page.wait_for_function("navigator.clipboard.readText().then((text) => text.startsWith('fewcore: 1'))")
    assert opened.page.evaluate("navigator.clipboard.readText()") == made_report().pipeline


@pytest.mark.parametrize(
    "opened", [PHONE, {"viewport": {"width": 320, "height": 600}}], indirect=True, ids=["390", "320"]
)
def test_a_phone_scrolls_down_only_and_wide_tables_in_a_box_of_their_own(opened: Opened) -> None:
    opened.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    root = "document.documentElement"
    assert opened.page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    box = opened.page.get_by_role("region", name="Results of masks")
    assert box.evaluate("(each) => each.scrollWidth > each.clientWidth")
    assert box.evaluate("(each) => getComputedStyle(each).borderRightWidth") == "1px"
    first = box.get_by_role("rowheader").first
    before = first.bounding_box()
    box.evaluate("(each) => { each.scrollLeft = 300; }")
    assert first.bounding_box() == before  # the model's name stays in sight


@pytest.mark.parametrize("opened", [{}, DARK], indirect=True, ids=["light", "dark"])
def test_the_scheme_is_applied_and_all_text_can_be_read(opened: Opened, request: pytest.FixtureRequest) -> None:
    poor = opened.page.evaluate(
        """() => {
             const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
             const light = (c) => c.slice(0, 3).map((v) => v / 255)
               .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
               .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
             const ground = (each) => {
               for (let at = each; at; at = at.parentElement) {
                 const colour = rgb(getComputedStyle(at).backgroundColor);
                 if (colour.length === 3 || colour[3] > 0.99) return colour;
               }
               return [255, 255, 255];
             };
             const bare = (each) => Array.from(each.childNodes).some((n) => n.nodeType === 3 && n.textContent.trim());
             const found = [];
             for (const each of document.querySelectorAll("body *")) {
               if (each.closest("svg, script") || !bare(each)) continue;
               const [a, b] = [light(rgb(getComputedStyle(each).color)), light(ground(each))];
               const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
               if (ratio < 4.5) found.push(`${each.tagName} ${each.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
             }
             const lines = getComputedStyle(document.documentElement);
             const card = light(ground(document.querySelector("section h2")));
             for (let i = 0; i < 6; i++) {
               const hex = lines.getPropertyValue(`--c${i}`).trim().slice(1);
               const line = light([0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
               const ratio = (Math.max(line, card) + 0.05) / (Math.min(line, card) + 0.05);
               if (!(ratio >= 3)) found.push(`line --c${i} ${ratio.toFixed(2)}`);
             }
             return found;
           }"""
    )  # WCAG 2.2 AA: 4.5 for text, 3 for what is drawn
    assert poor == []
    dark = "dark" in request.node.callspec.id
    page_colour = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert page_colour == ("rgb(16, 20, 25)" if dark else "rgb(245, 246, 248)")


def test_headings_are_in_order_and_landmarks_named(opened: Opened) -> None:
    levels = opened.page.evaluate(
        "Array.from(document.querySelectorAll('h1,h2,h3,h4'), (each) => Number(each.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert opened.page.evaluate("document.documentElement.lang") == "en"
    for role in ("main", "banner", "contentinfo", "navigation"):
        assert opened.page.get_by_role(role).count() == 1
    links = opened.page.evaluate("Array.from(document.querySelectorAll('nav a'), (each) => each.hash.slice(1))")
    assert links == opened.page.evaluate("Array.from(document.querySelectorAll('main section'), (each) => each.id)")


def test_the_first_thing_that_a_keyboard_meets_skips_to_the_report(opened: Opened) -> None:
    opened.page.keyboard.press("Tab")
    opened.page.keyboard.press("Enter")
    assert opened.page.evaluate("document.activeElement.id") == "main"


def test_what_failed_stands_first_with_its_message(opened: Opened) -> None:
    first = opened.page.locator("main section").first
    assert "scratch failed: NumericalError: loss is nan" in first.inner_text()


def test_paper_shows_all_of_it(opened: Opened) -> None:
    opened.page.emulate_media(media="print")
    opened.page.set_viewport_size({"width": 688, "height": 1000})  # between A4's margins, upright; lying it is 1016
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not opened.page.get_by_role("navigation").is_visible()
    assert not opened.page.locator(".copy").first.is_visible()
    cut = opened.page.evaluate(
        """Array.from(document.querySelectorAll(".scroll, .canvas, pre"))
             .filter((each) => each.scrollWidth > (each.closest(".landscape") ? 1016 : 688) || each.clientHeight + 2 < each.scrollHeight)
             .map((each) => `${each.ariaLabel} ${each.scrollWidth}`)"""
    )
    assert cut == []
    assert opened.page.evaluate("Array.from(document.querySelectorAll('details')).every((each) => each.open)")
    printed = opened.page.pdf(format="A4", prefer_css_page_size=True)
    assert printed.startswith(b"%PDF-")


def test_a_report_without_anything_opens_too(browser: Any, tmp_path: Path) -> None:
    empty = replace(
        made_report(),
        stages=(),
        reports={},
        pictures=(),
        published={},
        environment={},
        data={},
        pipeline="",
        command="",
    )
    (tmp_path / "report.html").write_text(render_html(empty), encoding="utf-8")
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "report.html").as_uri())
    assert "No evaluator has given a number." in page.locator("main").inner_text()
    assert said == []
