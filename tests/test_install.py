"""Every distribution is built, installed from its wheel into an empty virtual environment, run there and uninstalled.

Two ways to run the same checks:

- as one of the tests: wheels are built and installed without a network; third-party libraries are links to those of this
  environment, among which nothing of fewcore is;
- `tox run -e wheels`, which sets FEWCORE_WHEELS to the folder `dist`: wheels and sdists are built into it, each wheel from
  its sdist, and third-party libraries come from the package index, as for a user.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
DIST = os.environ.get("FEWCORE_WHEELS")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

CORE = """
fewcore: 1
name: core
stages:
  data:    {dataset: digits}
  chance:  {partitioner: random, n_parts: 10}
  classes: {partitioner: labels}
  both:    {partitioner: union, from: [chance, classes]}
  tasks:   {task_sampler: episodes, n_way: 5, from: both}
"""

META = """
fewcore: 1
name: meta
stages:
  data:      {dataset: digits}
  test:      {task_sampler: episodes, split: test, n_way: 5, n_tasks: 10}
  classes:   {partitioner: labels}
  tasks:     {task_sampler: episodes, n_way: 5, n_query: 5}
  net:       {backbone: conv4, filters: 8}
  protonets: {meta_learner: protonets, iterations: 2}
  score:     {evaluator: few-shot}
"""

ALL = """
fewcore: 1
name: all
stages:
  data:      {dataset: digits}
  test:      {task_sampler: episodes, split: test, n_way: 5, n_tasks: 10}
  embed:     {embedder: pixels}
  partition: {partitioner: kmeans, n_clusters: 10, min_size: 6}
  knn:       {meta_learner: knn}
  match:     {meta_learner: cluster-matching}
  score:     {evaluator: few-shot}
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a folder in which a user would work, outside the checkout."""

    python: Path
    home: Path
    pip_options: tuple[str, ...]

    def run(self, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `python ...` of the environment; it must end with `code`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FEWCORE"))}
        ours = {"FEWCORE_CACHE": str(self.home / "cache"), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        done = subprocess.run(
            [str(self.python), *command], cwd=self.home, env={**kept, **ours}, capture_output=True, text=True
        )
        assert done.returncode == code, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def fewcore(self, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `fewcore ...` of the environment."""
        return self.run("-m", "fewcore", *command, code=code)

    def install(self, what: str) -> None:
        """Install as the README says."""
        self.run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *self.pip_options, what)

    def components(self) -> dict[str, set[str]]:
        """Return the names that `fewcore plugins` shows, by distribution. None may be broken, none may clash."""
        rows = json.loads(self.fewcore("plugins", "--json").stdout)
        assert {row["status"] for row in rows} == {"ok"}
        return {d: {row["name"] for row in rows if row["distribution"] == d} for d in {r["distribution"] for r in rows}}

    def run_pipeline(self, name: str, text: str) -> dict[str, Any]:
        """Run a pipeline and return its metrics."""
        (self.home / f"{name}.yaml").write_text(text)
        self.fewcore("run", f"{name}.yaml", "--device", "cpu", "--threads", "1")
        metrics: dict[str, Any] = json.loads((self.home / "runs" / name / "metrics.json").read_text())
        assert metrics["failures"] == []
        return metrics


def build(folder: Path, out: Path) -> Path:
    """Build an sdist and a wheel into `out` and return the wheel; for `tox run -e wheels` the wheel is built from the sdist."""
    if DIST:
        command = [sys.executable, "-m", "build", "--outdir", str(out), str(folder)]
    else:
        command = [sys.executable, "-m", "hatchling", "build", "--directory", str(out)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return out / f"{project['name'].replace('-', '_')}-{project['version']}-py3-none-any.whl"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of every distribution of this repository, by the distribution's name."""
    out = Path(DIST) if DIST else tmp_path_factory.mktemp("dist")
    for old in [*out.glob("fewcore*.whl"), *out.glob("fewcore*.tar.gz")]:
        old.unlink()
    return {folder.name if folder != ROOT else "fewcore": build(folder, out) for folder in FOLDERS}


@pytest.fixture(scope="module")
def environment(
    wheels: dict[str, Path], link_libraries: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environment]:
    """A virtual environment in which nothing of fewcore is."""
    folder = tmp_path_factory.mktemp("user")
    find = ("--find-links", str(next(iter(wheels.values())).parent))
    venv = [sys.executable, "-m", "venv", str(folder / "venv")]
    subprocess.run([*venv, *([] if DIST else ["--without-pip"])], check=True, capture_output=True)
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    (folder / "home").mkdir()
    made = Environment(python, folder / "home", find if DIST else ("--no-index", *find))
    if not DIST:
        link_libraries(folder / "libraries", without=())
        site = Path(made.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
        (site / "libraries.pth").write_text(f"{folder / 'libraries'}\n")
    yield made
    shutil.rmtree(folder)  # torch with its libraries is several gigabytes


def files(folder: Path) -> set[str]:
    """Return the files in a folder, relative to it, without what Python and its tools leave there."""
    left = {"__pycache__", ".mypy_cache"}
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and not left & {*p.parts}}


def test_a_wheel_holds_the_code_the_licence_and_the_readme_and_nothing_else(wheels: dict[str, Path]) -> None:
    for folder in FOLDERS:
        module = "fewcore" if folder == ROOT else folder.name.replace("-", "_")
        code = {f"{module}/{file}" for file in files(folder / ("" if folder == ROOT else "src") / module)}
        with zipfile.ZipFile(wheels[module.replace("_", "-")]) as wheel:
            info = f"{module}-{PROJECT['version']}.dist-info"
            said = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
            assert {*wheel.namelist()} == {*code, *(f"{info}/{file}" for file in said)}
            assert f"{module}/py.typed" in code
            assert (folder / "README.md").read_text().strip() in wheel.read(f"{info}/METADATA").decode()


def test_an_sdist_of_a_plugin_holds_its_pipelines_and_tests_too(wheels: dict[str, Path]) -> None:
    for folder in FOLDERS[1:]:
        name = f"{folder.name.replace('-', '_')}-{PROJECT['version']}"
        with tarfile.open(wheels[folder.name].parent / f"{name}.tar.gz") as sdist:
            inside = {*sdist.getnames()} - {f"{name}/PKG-INFO", f"{name}/.gitignore"}
        assert inside == {f"{name}/{file}" for file in files(folder)}


NOTHING_OF_FEWCORE = """
import importlib.metadata, importlib.util
assert importlib.util.find_spec("fewcore") is None
assert not [d.name for d in importlib.metadata.distributions() if d.name.startswith("fewcore")]
"""

ONLY_FROM_WHEELS = """
import importlib.metadata, json, pathlib, sys
print(json.dumps({
    d.name: [str(d.locate_file("")), d.read_text("METADATA")]
    for d in importlib.metadata.distributions() if d.name.startswith("fewcore")
}))
"""


@pytest.mark.slow
def test_install_run_and_uninstall_as_a_user(environment: Environment, wheels: dict[str, Path]) -> None:
    environment.run("-c", NOTHING_OF_FEWCORE)

    environment.install("fewcore")
    assert set(environment.components()) == {"fewcore"}
    environment.run_pipeline("core", CORE)

    environment.install("fewcore[meta]")
    assert set(environment.components()) == {"fewcore", "fewcore-meta"}
    rows = environment.run_pipeline("meta", META)["rows"]
    assert {row["method"] for row in rows} == {"protonets"}

    environment.install("fewcore[all]")
    before = environment.components()
    assert set(before) == {"fewcore", *PROJECT["optional-dependencies"]["all"]}
    rows = environment.run_pipeline("all", ALL)["rows"]
    assert {row["method"] for row in rows} == {"knn", "cluster-matching"}
    environment.fewcore("doctor")

    installed = json.loads(environment.run("-c", ONLY_FROM_WHEELS).stdout)
    for name, (place, metadata) in installed.items():
        assert Path(place).is_relative_to(environment.python.parent.parent), f"{name} is not of this environment"
        with zipfile.ZipFile(wheels[name]) as wheel:
            [inside] = [entry for entry in wheel.namelist() if entry.endswith(".dist-info/METADATA")]
            assert metadata == wheel.read(inside).decode(), f"{name} was not installed from the wheel just built"

    environment.run("-m", "pip", "uninstall", "--quiet", "--yes", "fewcore-meta")
    after = environment.components()
    assert after == {distribution: names for distribution, names in before.items() if distribution != "fewcore-meta"}
    missing = environment.fewcore("check", "meta.yaml", code=2).stderr
    for name in ("conv4", "protonets"):
        [line] = [line for line in missing.splitlines() if f"'{name}'" in line]
        assert "install it with: pip install 'fewcore[meta]'" in line

    environment.install("fewcore[meta]")
    assert environment.components() == before
