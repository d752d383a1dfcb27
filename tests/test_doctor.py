"""What `fewcore doctor` says of environments that do not fit together, each made of real metadata in a folder on the path.

fewcore is the one of this checkout; torch, torchvision, timm and plugins are small packages that the tests write, since
what is wrong with them cannot be installed side by side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fewcore.requirements import unmet_requirements

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIP = f"{sys.executable} -m pip"
REPLACED = ("torch", "torchvision", "timm", "functorch", "torchgen")

TORCH = """
from types import SimpleNamespace
version = SimpleNamespace(cuda={cuda!r})
def init():
    {init}
cuda = SimpleNamespace(init=init, device_count=lambda: 1, get_device_name=lambda gpu: "NVIDIA H200")
class Ones:
    def sum(self): return self
    def item(self): {item}
def ones(n, device): return Ones()
"""
TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). "
    "Please update your GPU driver by downloading and installing a new version"
)


def distribution(
    site: Path, name: str, version: str, requires: Sequence[str] = (), module: str = "", **files: str
) -> None:
    """Install a distribution as a wheel would: metadata, one module, further files of the metadata."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (info / "METADATA").write_text("\n".join([*lines, ""]))
    for file, text in files.items():
        (info / f"{file}.txt").write_text(text)
    (site / f"{name.replace('-', '_')}.py").write_text(module)


def torch(
    site: Path, version: str = "2.15.0", cuda: str | None = "13.2", init: str = "pass", item: str = "return 2"
) -> None:
    distribution(site, "torch", version, module=TORCH.format(cuda=cuda, init=init, item=item))


def plugin(site: Path, name: str, version: str, requires: Sequence[str], module: str | None = None) -> None:
    """Install a plugin with one partitioner."""
    announced = (
        "from fewcore import Component, hookimpl\n@hookimpl\ndef fewcore_partitioners():\n"
        f"    return [Component('{name}', 'a:B', 'a way to part')]\n"
    )
    points = f"[fewcore]\n{name} = {name.replace('-', '_')}\n"
    distribution(site, name, version, requires, announced if module is None else module, entry_points=points)


def nvidia_smi(tmp_path: Path, answer: str, code: int = 0) -> None:
    """Put a driver on the path, as far as its own program tells."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{answer}'\nexit {code}\n")
    program.chmod(0o755)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed distributions with fewcore alone: its code, and the metadata of its pyproject.toml."""
    folder = tmp_path / "site"
    extras = [f"{name}; extra == '{e}'" for e, names in PROJECT["optional-dependencies"].items() for name in names]
    points = "[fewcore]\nbuiltin = fewcore.builtin.plugin\n"
    distribution(folder, "fewcore", PROJECT["version"], [*PROJECT["dependencies"], *extras], entry_points=points)
    (folder / "fewcore.py").unlink()
    (folder / "fewcore").symlink_to(ROOT / "fewcore")
    (tmp_path / "bin").mkdir()
    return folder


@pytest.fixture(scope="session")
def libraries(link_libraries: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to the libraries of this environment, without those that the tests write."""
    folder: Path = tmp_path_factory.mktemp("doctor") / "libraries"
    link_libraries(folder, without=REPLACED)
    return folder


class Doctor:
    """Runs `fewcore doctor` where only `site` and `libraries` are installed."""

    def __init__(self, site: Path, libraries: Path) -> None:
        self.folder = site.parent
        self.path = f"{site}{os.pathsep}{libraries}"

    def run(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        places = {
            "PYTHONPATH": self.path,
            "PATH": str(self.folder / "bin"),
            "HOME": str(self.folder / "home" / "jane"),
            "LOGNAME": "jane",
            "FEWCORE_CACHE": str(self.folder / "cache"),
        }
        # -S: nothing of this environment's own site-packages is seen
        command = [sys.executable, "-S", "-m", "fewcore", "doctor", *options]
        return subprocess.run(
            command, cwd=self.folder, env={**places, **environment}, capture_output=True, text=True, timeout=60
        )

    def __call__(self, **environment: str) -> dict[str, dict[str, Any]]:
        """Return the findings by subject. The exit code is 4 where one is bad, 0 where none is."""
        done = self.run("--json", **environment)
        assert done.stderr == ""
        found = json.loads(done.stdout)
        assert len({entry["subject"] for entry in found}) == len(found), "each thing is told once"
        assert done.returncode == (0 if all(entry["ok"] for entry in found) else 4)
        assert all(entry["advice"] for entry in found if not entry["ok"])
        return {entry["subject"]: entry for entry in found}

    def bad(self, **environment: str) -> dict[str, tuple[str, str]]:
        """Return what was found and the advice, of what is bad, by subject."""
        return {s: (entry["found"], entry["advice"]) for s, entry in self(**environment).items() if not entry["ok"]}


@pytest.fixture
def doctor(site: Path, libraries: Path) -> Doctor:
    return Doctor(site, libraries)


def test_what_fits_together_is_well(site: Path, doctor: Doctor) -> None:
    torch(site)
    plugin(site, "fewcore-mine", "3.1", ["fewcore>=0.1"])
    found = doctor()
    assert all(entry["ok"] and not entry["advice"] for entry in found.values())
    assert found["fewcore"]["found"] == PROJECT["version"]
    assert found["torch"]["found"] == "2.15.0"
    assert found["torchvision"]["found"] == "not installed, and nothing here needs it"
    assert found["plugin fewcore-mine"]["found"] == "3.1"


def test_a_torch_below_the_floor_of_fewcores_own_metadata(site: Path, doctor: Doctor) -> None:
    torch(site, "2.9.1")
    [floor] = [r for r in PROJECT["dependencies"] if r.startswith("torch>")]
    assert doctor.bad() == {"torch": (f"2.9.1; fewcore needs {floor}", f"{PIP} install --upgrade torch")}


def test_no_torch(doctor: Doctor) -> None:
    assert doctor.bad() == {"torch": ("not installed", f"{PIP} install --upgrade torch")}


def test_a_torch_that_cannot_be_imported(site: Path, doctor: Doctor) -> None:
    distribution(site, "torch", "2.15.0", module="raise OSError('libcudart.so.13: cannot open shared object file')")
    found = "2.15.0, but it cannot be imported: OSError: libcudart.so.13: cannot open shared object file"
    assert doctor.bad() == {"torch": (found, f"{PIP} uninstall --yes torch && {PIP} install torch")}


def test_timm_without_torchvision(site: Path, doctor: Doctor) -> None:
    torch(site)
    plugin(site, "fewcore-embed", PROJECT["version"], ["fewcore>=0.1", "timm>=1.0"])
    distribution(site, "timm", "1.0.31", ["torch", "torchvision"])
    found = "not installed; timm needs torchvision"
    assert doctor.bad() == {"torchvision": (found, f"{PIP} install --upgrade torch torchvision")}


def test_a_torchvision_made_for_another_torch_by_its_own_metadata(site: Path, doctor: Doctor) -> None:
    torch(site, "2.15.0+cu132")
    distribution(site, "torchvision", "0.29.0", ["torch==2.14.0"])
    found = "0.29.0; needs torch==2.14.0, but 2.15.0+cu132 is installed"
    assert doctor.bad() == {"torchvision": (found, f"{PIP} install --upgrade torch torchvision")}


def test_a_torchvision_whose_operators_are_not_those_of_torch(site: Path, doctor: Doctor) -> None:
    torch(site)
    wrong = "raise RuntimeError('operator torchvision::nms does not exist')"
    distribution(site, "torchvision", "0.30.0", ["torch"], wrong)
    found = "0.30.0, which does not fit torch 2.15.0: RuntimeError: operator torchvision::nms does not exist"
    again = f"{PIP} uninstall --yes torch torchvision && {PIP} install torch torchvision"
    assert doctor.bad() == {"torchvision": (found, again)}


def test_a_local_version_of_torch_meets_its_torchvision(site: Path, doctor: Doctor) -> None:
    torch(site, "2.15.0+cu132")
    distribution(site, "torchvision", "0.30.0", ["torch==2.15.0"])
    assert doctor.bad() == {}


def test_a_torch_for_the_cpu_beside_a_gpu(site: Path, doctor: Doctor, tmp_path: Path) -> None:
    torch(site, "2.15.0+cpu", cuda=None)
    nvidia_smi(tmp_path, "595.10")
    found, advice = doctor.bad()["cuda"]
    assert found == "this torch is built for the CPU only, so that the GPU with NVIDIA driver 595.10 is not used"
    assert advice.startswith(f"{PIP} uninstall --yes torch && {PIP} install torch   (")
    assert "the selector on torch's own page" in advice


def test_a_driver_that_is_too_old(site: Path, doctor: Doctor, tmp_path: Path) -> None:
    torch(site, init=f"raise RuntimeError({TOO_OLD!r})")
    nvidia_smi(tmp_path, "470.82")
    found, advice = doctor.bad()["cuda"]
    assert "torch is built for CUDA 13.2, and cannot use the GPU with NVIDIA driver 470.82" in found
    assert found.endswith("The NVIDIA driver on your system is too old (found version 11040).")
    assert advice.startswith("update the NVIDIA driver")
    assert "the selector on torch's own page" in advice


def test_a_gpu_that_is_listed_but_cannot_compute(site: Path, doctor: Doctor, tmp_path: Path) -> None:
    torch(site, item="raise RuntimeError('CUDA error: no kernel image is available for execution on the device')")
    nvidia_smi(tmp_path, "595.10")
    assert "no kernel image is available" in doctor.bad()["cuda"][0]


def test_a_gpu_that_computes_or_is_hidden(site: Path, doctor: Doctor, tmp_path: Path) -> None:
    torch(site)
    nvidia_smi(tmp_path, "595.10")
    assert doctor()["cuda"]["found"] == "13.2, driver 595.10: NVIDIA H200"
    hidden = doctor(CUDA_VISIBLE_DEVICES="")["cuda"]
    assert hidden["ok"]
    assert hidden["found"].endswith("CUDA_VISIBLE_DEVICES hides all GPUs")


def test_a_driver_without_a_gpu_is_no_gpu(site: Path, doctor: Doctor, tmp_path: Path) -> None:
    torch(site, cuda=None)
    nvidia_smi(tmp_path, "No devices were found", code=6)
    assert doctor()["cuda"]["found"] == "this torch is built for the CPU only, and no NVIDIA GPU is here"


def test_a_plugin_that_needs_a_newer_fewcore(site: Path, doctor: Doctor) -> None:
    torch(site)
    plugin(site, "fewcore-mine", "3.1", ["fewcore>=7"])
    found = f"3.1; needs fewcore>=7, but {PROJECT['version']} is installed"
    assert doctor.bad() == {"plugin fewcore-mine": (found, f"{PIP} install --upgrade fewcore fewcore-mine")}


def test_a_plugin_without_its_libraries(site: Path, doctor: Doctor) -> None:
    torch(site)
    distribution(site, "Mona_Lisa", "1.4")
    plugin(site, "fewcore-mine", "3.1", ["fewcore>=0.1", "mona-lisa>=1.6", "louvre[paris]", "absent; extra == 'more'"])
    found = "3.1; needs mona-lisa>=1.6, but 1.4 is installed; needs louvre[paris], which is not installed"
    assert doctor.bad() == {"plugin fewcore-mine": (found, f'{PIP} install "mona-lisa>=1.6" "louvre[paris]"')}


def test_a_library_without_what_it_needs_itself(site: Path, doctor: Doctor) -> None:
    torch(site)
    plugin(site, "fewcore-mine", "3.1", ["fewcore>=0.1", "louvre"])
    distribution(site, "louvre", "1.0", ["pyramid<2"])
    assert doctor.bad() == {"louvre": ("1.0; needs pyramid<2, which is not installed", f'{PIP} install "pyramid<2"')}


def test_a_plugin_of_ours_from_another_release(site: Path, doctor: Doctor) -> None:
    torch(site)
    plugin(site, "fewcore-meta", "0.0.9", ["fewcore>=0.0.9"])
    found = f"0.0.9; made for fewcore 0.0.9, and {PROJECT['version']} is installed"
    assert doctor.bad() == {"plugin fewcore-meta": (found, f"{PIP} install --upgrade fewcore fewcore-meta")}


def test_a_plugin_that_cannot_be_imported(site: Path, doctor: Doctor) -> None:
    torch(site)
    plugin(site, "fewcore-mine", "3.1", ["fewcore>=0.1"], "import lost")
    found, advice = doctor.bad()["plugin fewcore-mine"]
    assert found == "3.1; cannot be imported: ModuleNotFoundError: No module named 'lost'"
    assert advice.startswith(f"{PIP} install --upgrade fewcore-mine   (")


def test_a_name_that_fewcore_plugins_does_not_know(site: Path, doctor: Doctor) -> None:
    torch(site)
    found, advice = doctor.bad(FEWCORE_PLUGINS="fewcore-lost")["FEWCORE_PLUGINS"]
    assert found.startswith("names fewcore-lost: no such plugin is installed")
    assert advice == "unset FEWCORE_PLUGINS"


def test_a_cache_that_is_no_folder(site: Path, doctor: Doctor, tmp_path: Path) -> None:
    torch(site)
    (tmp_path / "file").write_text("in the way")
    found, advice = doctor.bad(FEWCORE_CACHE=str(tmp_path / "file" / "cache"))["cache"]
    assert found.endswith("file is no folder that can be written")
    assert advice.startswith("export FEWCORE_CACHE=")


def test_fewcore_without_metadata(site: Path, doctor: Doctor) -> None:
    torch(site)
    for file in sorted(site.glob("fewcore-*.dist-info/*")):
        file.unlink()
    assert "its own metadata is missing" in doctor.bad()["fewcore"][0]


def test_text_for_strangers_holds_no_name_and_no_home(site: Path, doctor: Doctor, tmp_path: Path) -> None:
    lost = tmp_path / "home" / "jane" / "lib" / "lost.so"
    distribution(site, "torch", "2.15.0", module=f"raise OSError('{lost}: cannot be opened; see /work/jane, /janet/x')")
    done = doctor.run(FEWCORE_CACHE=str(tmp_path / "scratch" / "jane" / "cache"))
    assert done.returncode == 4
    lines = done.stdout.splitlines()
    assert (
        "BAD  torch: 2.15.0, but it cannot be imported: OSError: ~/lib/lost.so: cannot be opened; see /work/$USER, /janet/x"
        in lines
    )
    assert f"     {PIP} uninstall --yes torch && {PIP} install torch" in lines
    assert f"ok   cache: {tmp_path}/scratch/$USER/cache" in lines
    assert "jane/" not in done.stdout


def test_a_python_in_the_home_folder_is_named_in_a_way_that_the_shell_reads(site: Path, doctor: Doctor) -> None:
    home = Path(sys.executable).parent.parent
    advice = doctor.bad(HOME=str(home))["torch"][1]
    assert advice == f"~/{Path(sys.executable).relative_to(home)} -m pip install --upgrade torch"


def test_the_python_of_the_path_needs_no_folder(doctor: Doctor, tmp_path: Path) -> None:
    beside = Path(sys.executable).parent
    if not (beside / "python").exists():
        pytest.skip("this Python is not called python")
    assert doctor.bad(PATH=str(beside))["torch"][1] == "python -m pip install --upgrade torch"


def test_extras_and_markers_of_requirements_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    distribution(tmp_path, "one", "1", ["two[more]", "elsewhere; sys_platform == 'nowhere'", "!!! no requirement"])
    distribution(tmp_path, "two", "2", ["three; extra == 'more'", "four; extra == 'less'", "one>=2"])
    lacks = unmet_requirements(["One", "not-installed"])
    assert [(lack.by, lack.asked, lack.installed) for lack in lacks] == [("two", "one>=2", "1"), ("two", "three", None)]
    assert unmet_requirements(["one"], but_not_of=["two"]) == []
