"""A new plugin: a complete distribution with one small method of a kind, to be made one's own."""

from __future__ import annotations

import builtins
import importlib.metadata
import importlib.util
import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import fewcore
from fewcore.disk import check_writable, write_text, written
from fewcore.errors import PipelineError, Problem, did_you_mean
from fewcore.kinds import CONTRACT_VERSION, KINDS
from fewcore.plugins import KNOWN, NAME, Registry

if TYPE_CHECKING:
    import jinja2

LONGEST = 24
"""Letters of a component's name: lines of the written code then fit into 120 columns."""

PREFIX = "fewcore-"

IMPORTED = ("Any", "ClassVar", "Iterator", "Mapping", "Self")
"""Classes, beside those of fewcore, that the written code imports."""


@dataclass(frozen=True)
class Method:
    """The small method that is written for a kind: what it is, its source, what its announcement says beside that.

    `needs` are requirements beside fewcore, `extras` what else of fewcore its pipeline runs with.
    """

    summary: str
    paper: str
    says: tuple[str, ...] = ()
    needs: tuple[str, ...] = ("numpy>=1.26",)
    extras: str = "meta"


TORCH = "torch>=2.10"

METHODS = {
    "dataset": Method("striped images, a class for each direction", "doi:10.1113/jphysiol.1968.sp008574"),
    "embedder": Method("principal components of the pixels", "doi:10.1080/14786440109462720"),
    "partitioner": Method("parts by the sides of random planes", "doi:10.1145/509907.509965", extras="embed,meta"),
    "task_sampler": Method("n-way tasks from the parts of partitions", "arXiv:1606.04080"),
    "meta_learner": Method(
        "class means under learnt weights of the pixels", "arXiv:1703.05175", needs=("numpy>=1.26", TORCH), extras=""
    ),
    "learner": Method(
        "nearest shrunken class means",
        "doi:10.1073/pnas.082099299",
        ("needs_labels=True", 'predicts=("scores",)'),
        extras="",
    ),
    "evaluator": Method("how often the true class is among the k likeliest", "doi:10.1007/s11263-015-0816-y"),
    "backbone": Method("one hidden layer", "doi:10.1038/323533a0", needs=(TORCH,)),
}


@dataclass(frozen=True)
class NewPlugin:
    """The names of a plugin that is to be written, all derived from one: `spectral`, or `fewcore-spectral`."""

    component: str
    kind: str
    folder: Path

    @classmethod
    def named(cls, name: str, kind: str, folder: Path | None = None) -> NewPlugin:
        """Return the plugin for what was typed; its folder is that of the distribution's name, here, by default."""
        component = re.sub(r"[-_.\s]+", "-", name.strip()).lower().removeprefix(PREFIX).strip("-")
        return cls(component, kind.strip().lower().replace("-", "_"), folder or Path(PREFIX + component))

    @property
    def distribution(self) -> str:
        """Name of the distribution: `fewcore-spectral`."""
        return PREFIX + self.component

    @property
    def module(self) -> str:
        """Name of the package: `fewcore_spectral`."""
        return self.distribution.replace("-", "_")

    @property
    def method(self) -> str:
        """Name of the module with the method: `spectral`."""
        return self.component.replace("-", "_")

    @property
    def cls(self) -> str:
        """Name of the class: `Spectral`."""
        return "".join(part.capitalize() for part in self.component.split("-"))

    def problems(self, registry: Registry) -> list[Problem]:
        """Return everything that stands against writing it, among what is installed."""
        return [*self._of_the_kind(), *self._of_the_name(), *self._of_others(registry), *self._of_the_folder()]

    def _of_the_kind(self) -> Iterator[Problem]:
        if self.kind not in METHODS:
            labels = [KINDS[kind].label for kind in METHODS]
            near = did_you_mean(self.kind.replace("_", "-"), labels)
            yield Problem("--kind", f"'{self.kind}'", f"one of {', '.join(labels)}", near)

    def _of_the_name(self) -> Iterator[Problem]:
        if self.component == "fewcore":
            yield Problem("NAME", "fewcore, the core itself", "a name that is free", f"such as fewcore-{self._label}")
        elif not NAME.fullmatch(self.component):
            expected = "letters, digits and hyphens, beginning with a letter"
            yield Problem("NAME", f"'{self.component}'", expected, "such as spectral or fewcore-spectral")
        elif len(self.component) > LONGEST:
            yield Problem("NAME", f"'{self.component}', {len(self.component)} letters", f"at most {LONGEST}")
        elif taken := self._taken():
            yield Problem("NAME", taken, "a name that is free", f"such as {self.component}-{self._label}")

    @property
    def _label(self) -> str:
        return KINDS[self.kind].label if self.kind in METHODS else "method"

    def _taken(self) -> str:
        """Return why the class or its module cannot have their names, or nothing."""
        if keyword.iskeyword(self.method) or keyword.iskeyword(self.cls) or self.component == "null":
            return f"'{self.component}', a word of Python or YAML"
        if self.method == "plugin":
            return "'plugin', whose module is the announcement"
        if self.cls.startswith("Test"):
            return f"'{self.component}', whose class {self.cls} pytest would take for tests"
        if hasattr(builtins, self.cls) or self.cls in {*fewcore.__all__, *IMPORTED}:
            return f"'{self.component}', whose class {self.cls} would hide another of this name"
        return ""

    def _of_others(self, registry: Registry) -> Iterator[Problem]:
        advice = f"such as {self.component}-2"
        for offer in registry.offers:
            if offer.name == self.component:
                found = f"'{self.component}' is a {KINDS[offer.kind].label} of {offer.distribution}"
                yield Problem("NAME", found, "a name that no component has", advice)
        if self.component in KNOWN and not any(offer.name == self.component for offer in registry.offers):
            found = f"'{self.component}' is a component of {PREFIX}{KNOWN[self.component]}"
            yield Problem("NAME", found, "a name that no component has", advice)
        if _installed(self.distribution) or self.component in KNOWN.values():
            yield Problem("NAME", f"{self.distribution} is a distribution that exists", "a new one", advice)

    def _of_the_folder(self) -> Iterator[Problem]:
        where = str(self.folder)
        if self.folder.is_dir():
            if any(self.folder.iterdir()):
                yield Problem(where, "a folder with files in it", "a new or empty folder", "type --out DIR")
        elif self.folder.exists() or self.folder.is_symlink():
            found = "a file" if self.folder.exists() else "a link that leads nowhere"
            yield Problem(where, found, "a new or empty folder", "type --out DIR")

    def write(self) -> list[Path]:
        """Write the distribution and return its files.

        Raises:
            ResourceError: the folder cannot be written.

        """
        check_writable(self.folder)
        templates = _environment()
        said = self._said()
        made = []
        with written(self.folder):
            for place, template in self._files().items():
                path = self.folder / place
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, templates.get_template(template).render(said) if template else "")
                made.append(path)
        return made

    def _files(self) -> dict[str, str]:
        """Return the files of the distribution and the template of each, empty for an empty file."""
        package = f"src/{self.module}"
        return {
            "pyproject.toml": "pyproject.toml.j2",
            "README.md": "README.md.j2",
            "LICENSE": "LICENSE.j2",
            ".gitignore": "gitignore.j2",
            ".github/workflows/tests.yml": "tests.yml.j2",
            f"{package}/__init__.py": "__init__.py.j2",
            f"{package}/py.typed": "",
            f"{package}/plugin.py": "plugin.py.j2",
            f"{package}/{self.method}.py": f"{self.kind}/method.py.j2",
            "tests/test_conformance.py": "test_conformance.py.j2",
            f"tests/test_{self.method}.py": f"{self.kind}/test_method.py.j2",
            f"pipelines/{self.component}.yaml": f"{self.kind}/pipeline.yaml.j2",
        }

    def _said(self) -> dict[str, object]:
        """Return what the templates name."""
        names = {name: getattr(self, name) for name in ("component", "kind", "distribution", "module", "method", "cls")}
        major, minor = (int(part) for part in fewcore.__version__.split(".")[:2])
        versions = {"version": f"{major}.{minor}", "fits": f">={major}.{minor},<{major}.{minor + 1}"}
        kind = KINDS[self.kind]
        return {
            **names,
            **versions,
            **vars(METHODS[self.kind]),
            "contract": CONTRACT_VERSION,
            "hook": kind.hook,
            "label": kind.label,
        }


def write_plugin(plugin: NewPlugin, registry: Registry) -> list[Path]:
    """Write a plugin's distribution and return its files.

    Raises:
        PipelineError: its names or its folder cannot be used; all problems are listed, and nothing is written.
        ResourceError: the folder cannot be written.

    """
    if problems := plugin.problems(registry):
        raise PipelineError(*problems)
    return plugin.write()


def _environment() -> jinja2.Environment:
    # Imported here, since the command line must not wait for it.
    import jinja2

    # What is written is code, in which nothing is escaped as it would be in HTML.
    loader = jinja2.PackageLoader("fewcore", "templates/plugin")
    return jinja2.Environment(loader=loader, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)  # noqa: S701


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return importlib.util.find_spec(distribution.replace("-", "_")) is not None
    return True
