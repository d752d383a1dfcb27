"""What is installed, whether it fits together, and what to type where it does not."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewcore.plugins import Registry

TORCH_FLOOR = (2, 10)


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
    """Return findings on Python, torch, torchvision, CUDA, the cache and the plugins."""
    findings = [Finding("python", True, f"{platform.python_version()} on {platform.platform()}")]
    findings += [_torch(), _torchvision(), _cuda(), _cache()]
    findings += [Finding(f"plugin {p.distribution}", True, p.version) for p in registry.plugins]
    advice = "pip install --upgrade the distribution, or uninstall it; FEWCORE_STRICT=1 shows the traceback"
    findings += [Finding(f"plugin {b.distribution}", False, b.reason, advice) for b in registry.broken]
    for (kind, name), offers in registry.clashes().items():
        names = ", ".join(offer.full_name for offer in offers)
        findings.append(Finding(f"{kind} {name}", True, f"offered {len(offers)} times", f"write one of {names}"))
    return findings


def _torch() -> Finding:
    try:
        version = importlib.metadata.version("torch")
        importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return Finding("torch", False, str(error), "pip install torch")
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    old = numbers < TORCH_FLOOR
    return Finding("torch", not old, version, "pip install --upgrade torch" if old else "")


def _torchvision() -> Finding:
    try:
        version = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return Finding("torchvision", True, "not installed; only the backbone timm needs it")
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        found = f"{version} does not fit the installed torch: {error}"
        return Finding("torchvision", False, found, "pip install --upgrade torch torchvision")
    return Finding("torchvision", True, version)


def _cuda() -> Finding:
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError):
        return Finding("cuda", True, "unknown without torch")
    if torch.version.cuda is None:
        return Finding("cuda", True, "this torch is built for the CPU only")
    if not torch.cuda.is_available():
        return Finding(
            "cuda", True, f"torch is built for CUDA {torch.version.cuda}; no usable GPU here, so --device auto is cpu"
        )
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return Finding("cuda", True, f"{torch.version.cuda}: {names}")


def _cache() -> Finding:
    from fewcore.store import default_root

    root = default_root()
    place = next(p for p in (root, *root.parents) if p.exists())
    ok = os.access(place, os.W_OK)
    return Finding(
        "cache", ok, str(root), "" if ok else f"set FEWCORE_CACHE to a folder that can be written, not {Path(place)}"
    )
