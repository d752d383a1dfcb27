"""What the documentation says is true: links lead somewhere, hooks are documented, code runs, tables match the code."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fewcore import hookspecs
from fewcore.kinds import INPUTS, KINDS
from fewcore.options import describe_options
from fewcore.pipeline import check
from fewcore.plugins import load_registry
from fewcore.yaml12 import read

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")])
PIPELINES = sorted([*ROOT.glob("fewcore/pipelines/*.yaml"), *ROOT.glob("plugins/*/pipelines/**/*.yaml")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("https://", "http://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them; text in code blocks is no heading."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_to_headings(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        if not target.startswith(("https://", "http://")):
            there = page.parent / target if target else page
            assert anchor in anchors(there), (
                f"{page.name} links to {target}#{anchor}; there are {sorted(anchors(there))}"
            )


def test_the_index_lists_every_page_where_the_contents_have_it() -> None:
    text = (ROOT / "docs" / "index.md").read_text()
    listed = re.findall(r"\]\(([\w/-]+)\.md\)", text.split("## Use")[1])
    contents = re.findall(r"^[\w/-]+$", "".join(re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL)), re.MULTILINE)
    pages = [page.stem for page in (ROOT / "docs").glob("*.md") if page.stem != "index"]
    assert listed == contents
    assert sorted(listed) == sorted([*pages, "decisions/index"])


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_shipped_pipelines_have_no_problems(pipeline: Path) -> None:
    check(read(pipeline.read_text()), load_registry())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_pipelines_in_the_docs_have_no_problems(page: Path) -> None:
    for text in blocks(page, "yaml"):
        if text.startswith("fewcore: 1"):
            check(read(text), load_registry())


def test_every_hook_is_documented_with_its_verb() -> None:
    page = (ROOT / "docs" / "hooks.md").read_text()
    for kind in KINDS.values():
        assert hasattr(hookspecs, kind.hook)
        assert re.search(
            rf"`{kind.hook}\(\)`.*`{kind.verb}\(.*`{'torch.nn.' if kind.makes == 'Module' else ''}{kind.makes}`", page
        )


def test_every_input_is_documented() -> None:
    page = (ROOT / "docs" / "hooks.md").read_text()
    for name in INPUTS:
        assert f"| `{name}` |" in page


def test_component_table_of_the_readme_is_made_from_the_code() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "docs" / "component_table.py"], capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() in (ROOT / "README.md").read_text(), (
        "run: python docs/component_table.py, and put it into README.md"
    )


def test_every_component_of_ours_has_a_section_with_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    component_pages = importlib.import_module("component_pages")
    component_pages.write(tmp_path)
    for offer in load_registry().offers:
        if offer.distribution in component_pages.OURS:
            page = (tmp_path / f"{KINDS[offer.kind].label}s.md").read_text()
            section = page.split(f"## {offer.name}\n")[1].split("\n## ")[0]
            for found in describe_options(offer.load()):
                assert f"| `{found.name}` | " in section
    listed = (ROOT / "docs" / "components.md").read_text()
    assert all(f"components/{page.stem}\n" in listed for page in tmp_path.glob("*.md"))
