"""What `fewcore new` writes for each kind installs, passes its tests and the kit, is well-formed, and runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from installing import install, python

from fewcore import PipelineError, ResourceError, __version__
from fewcore.cli import cli
from fewcore.kinds import CONTRACT_VERSION, KINDS, STAGE_KINDS
from fewcore.new_plugin import METHODS, NewPlugin, write_plugin
from fewcore.plugins import Registry, load_registry

LABELS = [KINDS[kind].label for kind in METHODS]
RUN = """
import contextlib, sys
from pathlib import Path
from fewcore.cli import main
for file in sys.argv[1:]:
    with contextlib.suppress(SystemExit):
        main(["run", file, "--device", "cpu", "--out", f"runs/{Path(file).stem}"])
"""


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(tool) is None, reason=f"{tool} is not installed")


def written(folder: Path, name: str, kind: str) -> NewPlugin:
    plugin = NewPlugin.named(name, kind, folder / f"{name}-{kind}")
    write_plugin(plugin, Registry())
    return plugin


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NewPlugin]:
    """A plugin of each kind, written."""
    folder = tmp_path_factory.mktemp("new")
    return {kind: written(folder, f"new-{label}", label) for kind, label in zip(METHODS, LABELS, strict=True)}


@pytest.fixture(scope="module")
def site(plugins: dict[str, NewPlugin], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which they are all installed."""
    made = tmp_path_factory.mktemp("installed") / "site"
    install(made, *(plugin.folder for plugin in plugins.values()))
    return made


def test_every_kind_of_stage_can_be_written() -> None:
    # Trackers and executors compute nothing: no method to be written.
    assert set(METHODS) == set(STAGE_KINDS)


def test_the_distribution_is_complete(plugins: dict[str, NewPlugin]) -> None:
    for plugin in plugins.values():
        files = {path.relative_to(plugin.folder).as_posix() for path in plugin.folder.rglob("*") if path.is_file()}
        package = f"src/{plugin.module}"
        assert files == {
            "pyproject.toml", "README.md", "LICENSE", ".gitignore", ".github/workflows/tests.yml",
            f"{package}/__init__.py", f"{package}/plugin.py", f"{package}/py.typed", f"{package}/{plugin.method}.py",
            "tests/test_conformance.py", f"tests/test_{plugin.method}.py", f"pipelines/{plugin.component}.yaml",
        }  # fmt: skip
        project = tomllib.loads((plugin.folder / "pyproject.toml").read_text())["project"]
        assert project["entry-points"]["fewcore"] == {plugin.component: f"{plugin.module}.plugin"}
        major, minor = __version__.split(".")[:2]
        assert project["dependencies"][0] == f"fewcore>={major}.{minor},<{major}.{int(minor) + 1}"
        # The conformance test is the four lines that the docs promise, after its import.
        conformance = (plugin.folder / "tests/test_conformance.py").read_text()
        assert len([line for line in conformance.splitlines() if line]) == 4


def test_their_tests_and_the_kit_pass(plugins: dict[str, NewPlugin], site: Path) -> None:
    folders = [plugin.folder / "tests" for plugin in plugins.values()]
    options = ("-v", "-p", "no:cacheprovider", "--import-mode=importlib")
    said = python(site, site.parent, "-m", "pytest", *options, *folders)
    for plugin in plugins.values():
        assert f"test_conformance[{plugin.component}-runs_on_toys] PASSED" in said
        own = [line for line in said.splitlines() if f"/test_{plugin.method}.py::test_" in line]
        assert any("slow_form" in line or "agrees" in line or "of_one_part" in line for line in own)
        assert all("PASSED" in line for line in own)


def test_their_pipelines_run(plugins: dict[str, NewPlugin], site: Path) -> None:
    files = [plugin.folder / "pipelines" / f"{plugin.component}.yaml" for plugin in plugins.values()]
    python(site, site.parent, "-c", RUN, *files)
    for plugin in plugins.values():
        metrics = json.loads((site.parent / "runs" / plugin.component / "metrics.json").read_text())
        assert metrics["rows"], plugin.component


@needs("ruff")
def test_style(plugins: dict[str, NewPlugin], tmp_path: Path) -> None:
    """Lines are not too long, nor broken where they need not be, for the shortest and the longest name."""
    folders = [plugin.folder for plugin in plugins.values()]
    folders += [written(tmp_path, name, label).folder for label in LABELS for name in ("q", "long-name-of-many-letter")]
    for command in (("check", "--no-cache"), ("format", "--check", "--no-cache")):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *folders], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@needs("mypy")
def test_types(plugins: dict[str, NewPlugin], tmp_path: Path) -> None:
    packages = [plugin.folder / "src" / plugin.module for plugin in plugins.values()]
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path]
    done = subprocess.run([*mypy, *packages], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ---- names


@pytest.mark.parametrize("name", ["spectral", "fewcore-spectral", "Fewcore_Spectral", " spectral "])
def test_one_name_gives_all(name: str) -> None:
    plugin = NewPlugin.named(name, "Task-Sampler")
    said = (plugin.component, plugin.distribution, plugin.module, plugin.method, plugin.cls, plugin.kind)
    assert said == ("spectral", "fewcore-spectral", "fewcore_spectral", "spectral", "Spectral", "task_sampler")
    assert plugin.folder == Path("fewcore-spectral")
    assert NewPlugin.named("two-words", "learner").cls == "TwoWords"
    assert NewPlugin.named("two-words", "learner").method == "two_words"


def refused(name: str, kind: str = "learner", folder: Path | None = None) -> list[str]:
    return [str(problem) for problem in NewPlugin.named(name, kind, folder).problems(load_registry())]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("3d-net", "NAME: '3d-net'; expected letters, digits and hyphens, beginning with a letter (such as spectral or "),
        ("ünder", "NAME: 'ünder'; expected letters, digits and hyphens, beginning with a letter"),
        ("", "NAME: ''; expected letters, digits and hyphens"),
        ("fewcore", "NAME: fewcore, the core itself; expected a name that is free (such as fewcore-learner)"),
        ("a/b", "NAME: 'a/b'; expected letters, digits and hyphens"),
        ("a" * 25, f"NAME: '{'a' * 25}', 25 letters; expected at most 24"),
        ("class", "NAME: 'class', a word of Python or YAML; expected a name that is free (such as class-learner)"),
        ("null", "NAME: 'null', a word of Python or YAML; expected a name that is free (such as null-learner)"),
        ("none", "NAME: 'none', a word of Python or YAML; expected a name that is free"),
        ("plugin", "NAME: 'plugin', whose module is the announcement; expected a name that is free"),
        ("run", "NAME: 'run', whose class Run would hide another of this name; expected a name that is free"),
        ("self", "NAME: 'self', whose class Self would hide another of this name; expected a name that is free"),
        ("class-var", "NAME: 'class-var', whose class ClassVar would hide another of this name"),
        ("test-time", "NAME: 'test-time', whose class TestTime pytest would take for tests; expected a name that is"),
        ("digits", "NAME: 'digits' is a dataset of fewcore; expected a name that no component has (such as digits-2)"),
        ("kmeans", "NAME: 'kmeans' is a partitioner of fewcore-cluster; expected a name that no component has"),
        ("medical", "NAME: fewcore-medical is a distribution that exists; expected a new one (such as medical-2)"),
        ("example", "NAME: fewcore-example is a distribution that exists; expected a new one (such as example-2)"),
    ],
)  # fmt: skip
def test_names_that_are_refused(name: str, message: str) -> None:
    found = refused(name)
    assert len(found) == 1, found
    assert found[0].startswith(message)


def test_a_component_of_ours_that_is_not_installed_is_known() -> None:
    found = [str(problem) for problem in NewPlugin.named("kmeans", "learner").problems(Registry())]
    assert found == [
        "NAME: 'kmeans' is a component of fewcore-cluster; expected a name that no component has (such as kmeans-2)"
    ]


def test_folders_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    expected = "expected a new or empty folder (type --out DIR)"
    assert refused("q", folder=tmp_path / "full") == [f"{tmp_path}/full: a folder with files in it; {expected}"]
    assert refused("q", folder=tmp_path / "full" / "file") == [f"{tmp_path}/full/file: a file; {expected}"]
    assert refused("q", folder=tmp_path / "link") == [f"{tmp_path}/link: a link that leads nowhere; {expected}"]
    (tmp_path / "empty").mkdir()
    assert refused("q", folder=tmp_path / "empty") == []
    with pytest.raises(ResourceError, match="cannot be written"):
        write_plugin(NewPlugin.named("q", "learner", tmp_path / "full" / "file" / "under"), Registry())


def test_all_problems_are_said_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    done = CliRunner().invoke(cli, ["new", "kmeans", "--kind", "lerner", "--out", str(tmp_path / "mine")])
    assert isinstance(done.exception, PipelineError)
    where = [problem.where for problem in done.exception.problems]
    assert where == ["--kind", "NAME", str(tmp_path / "mine")]
    assert "did you mean 'learner'?" in str(done.exception)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_the_command_says_what_to_type_next(tmp_path: Path) -> None:
    folder = tmp_path / "my folder"
    done = CliRunner().invoke(cli, ["new", "fewcore-spectral", "--kind", "task-sampler", "--out", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        f"fewcore-spectral: the task-sampler 'spectral', 12 files in {folder}",
        "now type:",
        f"  cd '{folder}'",
        "  python -m pip install -e '.[dev]'",
        "  pytest",
        "  fewcore run pipelines/spectral.yaml",
        "the method is src/fewcore_spectral/spectral.py: make it yours",
    ]


# ---- the page that takes a reader from nothing to a published method

PAGE = Path(__file__).parent.parent / "docs" / "writing-a-plugin.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Reader:
    """Goes through the page from its top: writes its files, and types its commands in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder.parent / "site"
        self.is_stale = True
        self.typed: list[str] = []

    def write(self, text: str) -> None:
        name = re.match(r"# file: (\S+)\n", text)
        if name:
            path = self.folder / name[1]
            assert path.exists(), f"{name[1]} is none of the files that fewcore new writes"
            path.write_text(text.removeprefix(name[0]))
            self.is_stale = True

    def type(self, line: str) -> str:
        self.typed.append(line)
        first, *rest = shlex.split(line)
        if first == "cd":
            self.folder /= rest[0]
        elif line.startswith("python -m pip install -e"):
            assert (self.folder / "pyproject.toml").exists()
        elif first == "fewcore" and rest[0] == "new":
            return python(self.site, self.folder, "-m", "fewcore", *rest)
        elif line == "python -m build":
            python(self.site, self.folder, "-m", "build", "--no-isolation")
            names = {path.name for path in (self.folder / "dist").iterdir()}
            assert names == {"fewcore_halves-0.1.0-py3-none-any.whl", "fewcore_halves-0.1.0.tar.gz"}
        elif first in ("fewcore", "pytest"):
            if self.is_stale:
                shutil.rmtree(self.site, ignore_errors=True)
                install(self.site, self.folder)
                self.is_stale = False
            return python(self.site, self.folder, "-m", first, *rest)
        else:
            assert first == "twine", f"the page says '{line}', which this test cannot type"
        return ""


def test_the_page_takes_a_reader_to_a_method_that_can_be_published(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    reader = Reader(tmp_path / "empty")
    said = {}
    for language, text in BLOCK.findall(PAGE.read_text()):
        if language == "python":
            reader.write(text)
        elif language == "console":
            for line in text.splitlines():
                if line == "python -m build" and importlib.util.find_spec("build") is None:
                    continue
                said[line] = reader.type(line)
    assert "passed" in said["pytest"]
    assert "n_planes" in said["fewcore describe halves"]
    assert "learnt" in said["fewcore run pipelines/halves.yaml"]
    assert reader.typed[0] == "fewcore new halves --kind partitioner"
    assert "twine upload dist/*" in reader.typed


def test_the_page_says_which_fewcore_has_which_contract() -> None:
    major, minor = __version__.split(".")[:2]
    assert f"| {major}.{minor} | {CONTRACT_VERSION} |" in PAGE.read_text()
