"""What is installed, whether it fits together, and what to type where it does not.

The text is made to be shown to others: the home folder is `~`, and the user's name stands in no path.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewcore.installed import cause, normal
from fewcore.requirements import Unmet, extras_of, unmet_requirements, version_of

if TYPE_CHECKING:
    from fewcore.plugins import Registry

PAIR = ("torch", "torchvision")
"""A torchvision works with one torch alone, so the two are mended together."""
SELECTOR = "take the command from the selector on torch's own page"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: whether it is well, what was found, and what to type where it is not."""

    subject: str
    ok: bool
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the finding as JSON."""
        return {"subject": self.subject, "ok": self.ok, "found": self.found, "advice": self.advice}


def diagnose(registry: Registry) -> list[Finding]:
    """Return findings on Python, fewcore, torch, torchvision, CUDA, the plugins, what they need, and the cache."""
    # What torch itself asks for differs from build to build; whether it can be imported tells more.
    names = ["fewcore", *(plugin.distribution for plugin in registry.plugins), "torchvision"]
    unmet = unmet_requirements(names, but_not_of=["torch"])
    python = Finding("python", True, f"{platform.python_version()} on {platform.platform()}, in {sys.prefix}")
    findings = [python, _fewcore(unmet), _torch(unmet), _torchvision(unmet), _cuda(_torch_names(unmet))]
    findings += _plugins(registry, unmet)
    for (kind, name), offers in registry.clashes().items():
        full = ", ".join(offer.full_name for offer in offers)
        findings.append(Finding(f"{kind} {name}", True, f"offered {len(offers)} times", f"write one of {full}"))
    findings.append(_cache())
    return [replace(f, found=_private(f.found), advice=_private(f.advice)) for f in findings]


def _fewcore(unmet: list[Unmet]) -> Finding:
    if version_of("fewcore") is None:
        found = "its own metadata is missing, so that neither its version nor its components are known"
        return Finding("fewcore", False, found, _pip("install --force-reinstall --no-deps fewcore"))
    return _distribution("fewcore", "fewcore", [], "", unmet)


def _torch(unmet: list[Unmet]) -> Finding:
    version = version_of("torch")
    asked = [lack for lack in unmet if lack.name == "torch" and lack.by != "torchvision"]
    install = _pip("install --upgrade", *_torch_names(unmet))
    if version is None:
        return Finding("torch", False, "not installed", install)
    if asked:
        return Finding("torch", False, f"{version}; {_needs(asked)}", install)
    if error := _import_error("torch"):
        found = f"{version}, but it cannot be imported: {error}"
        return Finding("torch", False, found, _install_again(_torch_names(unmet)))
    return Finding("torch", True, version)


def _torchvision(unmet: list[Unmet]) -> Finding:
    version = version_of("torchvision")
    asked = [lack for lack in unmet if lack.name == "torchvision"]
    lacks = [lack for lack in unmet if lack.by == "torchvision"]
    if version is None and not asked:
        return Finding("torchvision", True, "not installed, and nothing here needs it")
    found = version or "not installed"
    if asked:
        found += f"; {_needs(asked)}"
    elif lacks:
        found += "; needs " + "; needs ".join(str(lack) for lack in lacks)
    elif version_of("torch") and not _import_error("torch") and (error := _import_error("torchvision")):
        found += f", which does not fit torch {version_of('torch')}: {error}"
        return Finding("torchvision", False, found, _install_again(PAIR))
    else:
        return Finding("torchvision", True, found)
    return Finding("torchvision", False, found, _pip("install --upgrade", *PAIR))


def _needs(asked: list[Unmet]) -> str:
    """Return who needs what, in words: `fewcore and timm need torch>=2.10`."""
    by: dict[str, list[str]] = {}
    for lack in asked:
        by.setdefault(lack.asked, []).append(lack.by)
    return "; ".join(f"{', '.join(who)} need{'s' * (len(who) == 1)} {what}" for what, who in by.items())


def _torch_names(unmet: list[Unmet]) -> tuple[str, ...]:
    """Return what to install where torch must change: with torchvision where it is here or needed."""
    needed = version_of("torchvision") or any(lack.name == "torchvision" for lack in unmet)
    return PAIR if needed else PAIR[:1]


def _import_error(module: str) -> str:
    """Return why a module cannot be imported, in one line; nothing where it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # libraries that do not fit together fail in many ways
        return cause(error)
    return ""


def _cuda(names: tuple[str, ...]) -> Finding:
    if _import_error("torch"):
        return Finding("cuda", True, "unknown without torch")
    torch: Any = importlib.import_module("torch")
    build = torch.version.cuda
    driver = _driver()
    if build is None and getattr(torch.version, "hip", None):
        return Finding("cuda", True, f"torch is built for ROCm {torch.version.hip}, which is not looked at here")
    if build is None and driver is None:
        return Finding("cuda", True, "this torch is built for the CPU only, and no NVIDIA GPU is here")
    if build is None:
        found = f"this torch is built for the CPU only, so that the GPU with NVIDIA driver {driver} is not used"
        return Finding(
            "cuda", False, found, f"{_install_again(names)}   (on Windows, or where this changes nothing: {SELECTOR})"
        )
    if driver is None:
        return Finding("cuda", True, f"torch is built for CUDA {build}; no NVIDIA GPU here, so --device auto is cpu")
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return Finding("cuda", True, f"torch is built for CUDA {build}; CUDA_VISIBLE_DEVICES hides all GPUs")
    try:
        gpus = _computing_gpus(torch)
    except Exception as error:
        says = cause(error).partition(" Please ")[0]
        found = f"torch is built for CUDA {build}, and cannot use the GPU with NVIDIA driver {driver}: {says}"
        return Finding("cuda", False, found, f"update the NVIDIA driver, or, for a torch of another CUDA, {SELECTOR}")
    return Finding("cuda", True, f"{build}, driver {driver}: {', '.join(gpus)}")


def _computing_gpus(torch: Any) -> list[str]:
    """Return the names of all GPUs, each of which has computed something: to be listed is not enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.init()
        gpus = range(torch.cuda.device_count())
        for gpu in gpus:
            torch.ones(2, device=f"cuda:{gpu}").sum().item()
        return [torch.cuda.get_device_name(gpu) for gpu in gpus]


def _driver() -> str | None:
    """Return the version of the NVIDIA driver, None where there is none or it has no GPU."""
    program = shutil.which("nvidia-smi")
    if program:
        ask = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(ask, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
            if done.returncode == 0 and done.stdout.strip():
                return done.stdout.split()[0]
            if "no devices" in done.stdout.lower():
                return None
    return "of unknown version" if Path("/proc/driver/nvidia/version").exists() else None


def _plugins(registry: Registry, unmet: list[Unmet]) -> list[Finding]:
    """Return a finding for each plugin, and one for each library that lacks what it needs itself."""
    versions = {normal(p.distribution): p.version for p in registry.plugins if not p.is_ours}
    faults: dict[str, list[str]] = {}
    findings = []
    for plugin in registry.broken:
        if plugin.distribution == "FEWCORE_PLUGINS":  # it names what is not installed
            found = f"names {plugin.entry_point}: {plugin.reason}"
            findings.append(Finding("FEWCORE_PLUGINS", False, found, "unset FEWCORE_PLUGINS"))
        faults.setdefault(normal(plugin.distribution), []).append(plugin.reason)
    core = version_of("fewcore")
    released_together = extras_of("fewcore")
    for name, version in versions.items():
        other = name in released_together and version != core
        reasons = [f"made for fewcore {version}, and {core} is installed"] if other else []
        advice = _pip("install --upgrade fewcore", name) if other else _mend_plugin(name)
        if not any((lack.by, lack.name) == (name, "fewcore") for lack in unmet):  # then it was not even tried
            reasons += faults.get(name, [])
        findings.append(_distribution(f"plugin {name}", name, reasons, advice, unmet))
    others = dict.fromkeys(lack.by for lack in unmet if lack.name not in PAIR)
    findings += [
        _distribution(name, name, [], "", unmet) for name in others if name not in {*versions, "fewcore", *PAIR}
    ]
    return findings


def _mend_plugin(name: str) -> str:
    return (
        f"{_pip('install --upgrade', name)}   (or uninstall it; FEWCORE_STRICT=1 fewcore plugins shows its author why)"
    )


def _distribution(subject: str, name: str, reasons: list[str], advice: str, unmet: list[Unmet]) -> Finding:
    """Return the finding on a distribution: what is wrong with it, and what it needs and does not find.

    What is wrong with torch and torchvision is told once, by their own findings.
    """
    lacks = [lack for lack in unmet if lack.by == name and lack.name not in PAIR]
    if any(lack.name == "fewcore" for lack in lacks):
        advice = _pip("install --upgrade fewcore", name)
    elif lacks:
        advice = _pip("install", *(f'"{lack.asked}"' for lack in lacks))
    reasons = reasons + [f"needs {lack}" for lack in lacks]
    found = "; ".join([version_of(name) or "of unknown version", *reasons])
    return Finding(subject, not reasons, found, advice if reasons else "")


def _cache() -> Finding:
    from fewcore.store import default_root

    root = default_root()
    place = next(p for p in (root, *root.parents) if p.exists())
    if place.is_dir() and os.access(place, os.W_OK):
        return Finding("cache", True, str(root))
    found = f"{root}, but {place} is no folder that can be written"
    return Finding("cache", False, found, "export FEWCORE_CACHE=FOLDER   (one that you can write)")


def _pip(command: str, *names: str) -> str:
    """Return a command of the pip that serves this Python, even where another `python` is first on the path."""
    first = shutil.which("python")
    python = "python"
    if first is None or Path(first).parent != Path(sys.executable).parent:
        python = sys.executable if " " not in sys.executable else f'"{sys.executable}"'
    return " ".join([f"{python} -m pip {command}", *names])


def _install_again(names: Iterable[str]) -> str:
    """Return what brings another build of the same version, of which pip would say that it is there already."""
    return f"{_pip('uninstall --yes', *names)} && {_pip('install', *names)}"


def _private(text: str) -> str:
    """Return a text with the home folder as `~` (in quotes `$HOME`), and the user's name in other paths as `$USER`."""
    ends = r"""(?=[/\\\s:;,'")\]]|$)"""
    for home in _homes():
        text = re.sub(rf'"{re.escape(home)}{ends}', '"$HOME', text)
        text = re.sub(re.escape(home) + ends, "~", text)
    with contextlib.suppress(Exception):  # a user without a name has none to hide
        text = re.sub(rf"(?<=[/\\]){re.escape(getpass.getuser())}{ends}", "$USER", text)
    return text


def _homes() -> Iterable[str]:
    with contextlib.suppress(RuntimeError, OSError):
        home = Path.home()
        if home != Path(home.anchor):
            yield from dict.fromkeys((str(home), str(home.resolve())))
