"""Whether what is installed meets what installed distributions ask for. Read from their metadata; nothing is imported."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from fewcore.installed import normal


@dataclass(frozen=True)
class Unmet:
    """A requirement of the distribution `by` that is not met: `asked`, such as `monai>=1.6`, for the distribution `name`.

    `installed` is the version that is there instead, None for none.
    """

    by: str
    name: str
    asked: str
    installed: str | None

    def __str__(self) -> str:
        found = "which is not installed" if self.installed is None else f"but {self.installed} is installed"
        return f"{self.asked}, {found}"


def version_of(name: str) -> str | None:
    """Return the installed version of a distribution, None where it is not installed or its metadata cannot be read."""
    found = _distribution(name)
    return None if found is None else found.version


def unmet_requirements(names: Iterable[str], but_not_of: Iterable[str] = ()) -> list[Unmet]:
    """Return what the named distributions, and all that they need in turn, ask for and do not find.

    What the distributions `but_not_of` ask for is left out. Extras count where something asks for them. Names that are
    not installed are passed over, and so are requirements and versions that cannot be read: what cannot be judged is no
    fault.
    """
    left_out = {normal(name) for name in but_not_of}
    waiting = [(normal(name), "") for name in names]
    seen = set(waiting)
    found: dict[Unmet, None] = {}
    while waiting:
        by, extra = waiting.pop(0)
        for requirement in _requirements(by, extra):
            version = version_of(requirement.name)
            if version is None or not _meets(version, requirement):
                found[Unmet(by, normal(requirement.name), _asked(requirement), version)] = None
            for asked in ("", *sorted(requirement.extras)):
                after = normal(requirement.name), asked
                if after not in seen and after[0] not in left_out:
                    seen.add(after)
                    waiting.append(after)
    return list(found)


def extras_of(name: str) -> set[str]:
    """Return the distributions, by normal name, that the extras of a distribution install."""
    found = _distribution(name)
    lines = [_parsed(line) for line in (found.requires or ())] if found is not None else []
    return {normal(line.name) for line in lines if line and line.marker and "extra" in str(line.marker)}


def _distribution(name: str) -> importlib.metadata.Distribution | None:
    try:
        found = importlib.metadata.distribution(name)
        return found if "Version" in found.metadata else None
    except Exception:  # no such distribution, or metadata that a broken install left behind
        return None


def _requirements(name: str, extra: str) -> list[Requirement]:
    """Return what a distribution asks for here: on this system, and with this extra."""
    found = _distribution(name)
    lines = [_parsed(line) for line in (found.requires or ())] if found is not None else []
    return [line for line in lines if line and (line.marker is None or line.marker.evaluate({"extra": extra}))]


def _asked(requirement: Requirement) -> str:
    """Return a requirement as pip is given it: without the marker, which has been judged."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def _parsed(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def _meets(version: str, requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True
