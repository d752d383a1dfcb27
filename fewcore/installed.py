"""What is installed, found without importing any of it: plugins, and the source of those under development."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fewcore import __version__
from fewcore.components import Offer

GROUP = "fewcore"
OURS = "fewcore"


@dataclass(frozen=True)
class FoundPlugin:
    """An entry point of the group `fewcore`, not imported. `problem` says why it cannot be, if so: its metadata cannot be
    read, or it was written for another fewcore.
    """

    name: str
    value: str
    distribution: str
    version: str
    problem: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether it comes with the core."""
        return normal(self.distribution) == OURS


def find_plugins() -> tuple[FoundPlugin, ...]:
    """Return the installed plugins, sorted, without importing any.

    The first distribution of a name on `sys.path` counts, as for imports.
    """
    found: dict[str, list[FoundPlugin]] = {}
    for distribution in importlib.metadata.distributions():
        plugins = _entry_points(distribution)
        if plugins:
            found.setdefault(normal(plugins[0].distribution), plugins)
    every = [plugin for plugins in found.values() for plugin in plugins]
    return tuple(sorted(every, key=lambda plugin: (not plugin.is_ours, normal(plugin.distribution), plugin.name)))


def source_digest(offer: Offer) -> str | None:
    """Return the SHA-256 of the .py files around an offer's module where its distribution is installed editable.

    Under development the version stays while the code changes, so a result's key needs the code itself. None for a
    distribution that is not editable, or where the module cannot be found. Nothing is imported.
    """
    try:
        text = importlib.metadata.distribution(offer.distribution).read_text("direct_url.json")
        editable = bool(json.loads(text or "{}").get("dir_info", {}).get("editable"))
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError, AttributeError):
        return None
    module = offer.component.target.partition(":")[0]
    origin = _origin(module) if editable else None
    if origin is None:
        return None
    # A module without a package may lie beside anything, a virtual environment included.
    files = origin.parent.rglob("*.py") if "." in module else origin.parent.glob("*.py")
    digest = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(origin.parent).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _origin(module: str) -> Path | None:
    """Return the file of a module, found through its parents' folders instead of by importing them."""
    name, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(name)
        for child in rest:
            if spec is None:
                return None
            name = f"{name}.{child}"
            spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def normal(name: str) -> str:
    """Return the name of a distribution as packaging compares it: lower case, hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()


def cause(error: BaseException) -> str:
    """Return an error in one line, whatever its own text does."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


def _entry_points(distribution: importlib.metadata.Distribution) -> list[FoundPlugin]:
    """Return the plugins of a distribution. Metadata that cannot be read is a problem of that distribution alone."""
    try:
        found = [point for point in distribution.entry_points if point.group == GROUP]
        problem = ""
    except Exception as error:
        text = distribution.read_text("entry_points.txt") or ""
        if f"[{GROUP}]" not in text:
            return []
        found, problem = [], f"its entry_points.txt cannot be read: {cause(error)}"
    if not found and not problem:
        return []
    try:
        name, version = distribution.metadata["Name"] or "unknown", distribution.version or "unknown"
        requires = distribution.requires or []
    except Exception:
        name, version, requires = "unknown", "unknown", []
    if problem:
        return [FoundPlugin(name, "", name, version, problem)]
    problem = _of_another_fewcore(name, requires)
    return [FoundPlugin(point.name, point.value, name, version, problem) for point in found]


def _of_another_fewcore(name: str, requires: Iterable[str]) -> str:
    """Return that a plugin asks for another fewcore than this, such as `fewcore<0.1`, or nothing.

    A plugin says by this requirement for which contract it was written. pip enforces it where it installs the plugin, but
    not where fewcore itself is upgraded later.
    """
    # Imported here: `import fewcore` must stay light.
    from packaging.requirements import InvalidRequirement, Requirement

    for line in requires:
        if not re.match(r"fewcore(?![\w.-])", line, re.IGNORECASE):
            continue
        try:
            asked = Requirement(line)
        except InvalidRequirement:
            continue
        counts = asked.marker is None or asked.marker.evaluate({"extra": ""})
        if counts and not asked.specifier.contains(__version__, prereleases=True):
            needed = f"fewcore{asked.specifier}"
            advice = f"type pip install --upgrade {name}, or pip install '{needed}'"
            return f"was written for {needed}; found fewcore {__version__} ({advice})"
    return ""
