"""What the distributions of this repository say of themselves agrees: extras, versions, libraries, licence."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
CORE = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = CORE["project"]["optional-dependencies"]
FOLDERS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
PLUGINS = [folder.name for folder in FOLDERS if folder.name != "fewcore-example"]
"""The plugins that an extra installs; the example is there to be copied."""
FOR_LIBRARIES = {"alembic", "sqlalchemy", "tensorboard"}
"""Asked for because a library that is imported imports it in turn, and does not ask for it itself."""
FOR_AUTHORS = {"pytest"}
"""Imported by the conformance kit alone, which runs inside it."""


def metadata(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())


def extra_of(plugin: str) -> str:
    return plugin.removeprefix("fewcore-")


def test_every_plugin_is_an_extra_and_all_installs_them_all() -> None:
    assert sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "src").exists()) == [
        folder.name for folder in FOLDERS
    ]
    ours = {extra: names for extra, names in EXTRAS.items() if any(name.startswith("fewcore") for name in names)}
    assert ours == {**{extra_of(plugin): [plugin] for plugin in PLUGINS}, "all": ours["all"]}
    assert sorted(ours["all"]) == PLUGINS


def test_the_pages_on_installing_name_every_extra() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {*EXTRAS}
    readme = (ROOT / "README.md").read_text().partition("## Install\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)`[,:; ]", readme)) == {*EXTRAS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_metadata_is_complete_and_that_of_one_release(folder: Path) -> None:
    said = metadata(folder)
    project = said["project"]
    module = folder.name.replace("-", "_")
    assert said["build-system"] == CORE["build-system"]
    assert project["name"] == folder.name
    for same in ("version", "requires-python", "license", "authors", "readme"):
        assert project[same] == CORE["project"][same], same
    assert set(project["classifiers"]) == set(CORE["project"]["classifiers"])
    assert project["description"]
    assert project["keywords"]
    assert project["entry-points"]["fewcore"] == {extra_of(folder.name): f"{module}.plugin"}
    assert said["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [f"src/{module}"]
    assert (folder / "src" / module / "py.typed").exists()
    assert (folder / "README.md").read_text().startswith(f"# {folder.name}\n")
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_library_has_one_floor_in_all_distributions(folder: Path) -> None:
    release = ".".join(CORE["project"]["version"].split(".")[:2])
    floors = dict(
        line.partition(">=")[::2] for f in (ROOT, *FOLDERS) for line in metadata(f)["project"]["dependencies"]
    )
    asked = dict(line.partition(">=")[::2] for line in metadata(folder)["project"]["dependencies"])
    assert asked.pop("fewcore") == release
    assert asked == {name: floors[name] for name in asked}
    assert all(asked.values()), "every library has a floor"


@functools.cache
def distributions_of_modules() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def imported(folder: Path) -> Iterator[str]:
    """Yield the top-level modules that a distribution's code imports, functions included."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.partition(".")[0]


@pytest.mark.parametrize("folder", [ROOT, *FOLDERS], ids=lambda folder: folder.name)
def test_what_is_imported_is_what_is_asked_for(folder: Path) -> None:
    project = metadata(folder)["project"]
    module = project["name"].replace("-", "_")
    code = ROOT / "fewcore" if folder == ROOT else folder / "src" / module
    extras = {Requirement(line).name for names in project.get("optional-dependencies", {}).values() for line in names}
    asked = {Requirement(line).name.lower() for line in project["dependencies"]}
    providers = distributions_of_modules()
    modules = {*imported(code)} - {module, "fewcore"} - FOR_AUTHORS - sys.stdlib_module_names
    assert not modules - {*providers}, "imported and not installed"
    used = {name: {provider.lower() for provider in providers[name]} for name in modules}
    assert not {name for name, any_of in used.items() if not any_of & {*asked, *extras}}, "imported and not asked for"
    assert not asked - FOR_LIBRARIES - {"fewcore"}.union(*used.values()), "asked for and never imported"
