"""Find plugins, load them one by one, check what they offer, and index it.

A plugin that is broken is a record with a reason, never an exception: it harms only itself. What cannot be defended
against is a plugin that never returns from its import; it hangs the command, and `FEWCORE_PLUGINS` leaves it out.

Environment variables:
    FEWCORE_PLUGINS: names of distributions or entry points, with commas; only these and fewcore's own are loaded.
    FEWCORE_STRICT: `1` raises a plugin's error instead of recording it; for plugin authors.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pluggy

from fewcore import hookspecs
from fewcore.components import Component, Offer
from fewcore.errors import PluginError, did_you_mean
from fewcore.installed import GROUP, FoundPlugin, cause, normal
from fewcore.installed import find_plugins as find_plugins
from fewcore.installed import source_digest as source_digest
from fewcore.kinds import KINDS

PREDICTS = ("scores", "masks", "values")

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
ONE_LINE = re.compile(r".*\S.*")
TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

KNOWN = {
    name: extra
    for extra, names in {
        "cluster": "hyperplanes kmeans",
        "embed": "acai alexnet bigan c3d c3d-tuned deepcluster gist infogan pca-whiten pixels timm vae vgg whiten",
        "graphmtl": "constant graph-mtl lasso ridge trace-norm-mtl",
        "medical": "breast-mri chest densenet ipmn jsrt lidc monai montgomery phantom-breast phantom-chest segmentation "
        "shape shenzhen",
        "meta": "attribute-tasks cactus-resnet celeba cluster-matching cluster-subsets conv4 fine-tune fully-connected "
        "imagenet knn linear maml mil mini-imagenet mlp mnist multi-task nearest-neighbour omniglot protoclr protonets "
        "scratch",
        "propsvm": "clustering clustering-rf clustering-svm orient proportion-svm random-forest svm",
        "s4mtl": "conv-net s2mtl s4mtl u-mtl u-net",
        "slurm": "slurm",
        "tracking": "mlflow tensorboard",
    }.items()
    for name in names.split()
}
"""Names that a plugin of ours offers -> the extra of `fewcore` that installs it."""


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin of which something cannot be used, and why. What it offers beside that still works."""

    entry_point: str
    distribution: str
    version: str
    reason: str

    def __str__(self) -> str:
        return f"plugin '{self.entry_point}' from {self.distribution} {self.version}: {self.reason}"


@dataclass(frozen=True)
class Registry:
    """Everything that the installed plugins offer, and the plugins that are broken."""

    offers: tuple[Offer, ...] = ()
    broken: tuple[BrokenPlugin, ...] = ()
    plugins: tuple[FoundPlugin, ...] = ()

    def of_kind(self, kind: str) -> tuple[Offer, ...]:
        """Return the offers of a kind, by name."""
        return tuple(offer for offer in self.offers if offer.kind == kind)

    def clashes(self) -> dict[tuple[str, str], tuple[Offer, ...]]:
        """Return the offers that share a kind and a name, by both: their bare name is refused."""
        same: dict[tuple[str, str], list[Offer]] = {}
        for offer in self.offers:
            same.setdefault((offer.kind, offer.name), []).append(offer)
        return {key: tuple(offers) for key, offers in same.items() if len(offers) > 1}

    def names(self, kind: str) -> tuple[str, ...]:
        """Return the names of a kind that a pipeline file may say: bare, or full where a bare name is ambiguous."""
        clashing = self.clashes()
        return tuple(o.full_name if (kind, o.name) in clashing else o.name for o in self.of_kind(kind))

    def find(self, kind: str, name: str) -> Offer:
        """Return the offer that a pipeline file means by `name`: bare, or `distribution:name`.

        Raises:
            PluginError: no plugin offers it (the message lists what is installed and how to install it, where that is
                known), or several do and the name is bare (the message lists the full names to write).

        """
        label = KINDS[kind].label if kind in KINDS else kind
        distribution, colon, bare = name.rpartition(":")
        fitting = [
            offer
            for offer in self.of_kind(kind)
            if offer.name == bare and (not colon or normal(offer.distribution) == normal(distribution))
        ]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            full = ", ".join(offer.full_name for offer in fitting)
            raise PluginError(f"{label} '{name}' is offered by {len(fitting)} plugins; write one of: {full}")
        raise PluginError(self._missing(kind, label, name, bare))

    def _missing(self, kind: str, label: str, name: str, bare: str) -> str:
        names = self.names(kind)
        parts = [f"no {label} named '{name}'", f"installed: {', '.join(names) or 'none'}"]
        others = [offer for offer in self.offers if offer.name == bare]
        if suggestion := did_you_mean(name, names):
            parts.append(suggestion)
        elif others and all(offer.kind != kind for offer in others):
            where = " or ".join(KINDS[offer.kind].usage(bare) for offer in others)
            parts.append(f"'{bare}' is of another kind; write {where}")
        elif bare in KNOWN and not others:
            parts.append(f"install it with: pip install 'fewcore[{KNOWN[bare]}]'")
        if self.broken:
            parts.append("broken plugins, one of which may offer it: " + "; ".join(str(b) for b in self.broken))
        return "; ".join(parts)


@dataclass
class _Loading:
    """What is gathered while plugins are loaded: offers with the plugin of each, and problems by plugin."""

    strict: bool
    offers: list[tuple[Offer, FoundPlugin]] = field(default_factory=list)
    problems: dict[FoundPlugin, list[str]] = field(default_factory=dict)

    def problem(self, plugin: FoundPlugin, reason: str, cause: BaseException | None = None) -> None:
        if self.strict:
            broken = BrokenPlugin(plugin.name, plugin.distribution, plugin.version, reason)
            raise PluginError(str(broken)) from cause
        self.problems.setdefault(plugin, []).append(reason)


def load_registry() -> Registry:
    """Load every plugin, once per process, and return what they offer.

    Raises:
        PluginError: a plugin is broken and `FEWCORE_STRICT` is 1.

    """
    only = os.environ.get("FEWCORE_PLUGINS")
    names = None if only is None else tuple(sorted({name.strip() for name in only.split(",")} - {""}))
    return _load_all(names, os.environ.get("FEWCORE_STRICT", "") == "1")


@functools.cache
def _load_all(only: tuple[str, ...] | None, strict: bool) -> Registry:
    found = find_plugins()
    loading = _Loading(strict)
    wanted = {normal(name) for name in only or ()}
    chosen = [p for p in found if only is None or p.is_ours or {normal(p.name), normal(p.distribution)} & wanted]
    for plugin in chosen:
        _load(plugin, loading)
    _refuse_doubles(loading)
    for name in only or ():
        if not any(normal(name) in (normal(p.distribution), normal(p.name)) for p in found):
            known = ", ".join(sorted({p.distribution for p in found}))
            missing = FoundPlugin(name, "", "FEWCORE_PLUGINS", "")
            loading.problem(missing, f"no such plugin is installed; expected some of: {known}")
    place = {kind: index for index, kind in enumerate(KINDS)}
    offers = sorted((o for o, _ in loading.offers), key=lambda o: (place[o.kind], o.name, normal(o.distribution)))
    broken = tuple(
        BrokenPlugin(p.name, p.distribution, p.version, "; ".join(reasons)) for p, reasons in loading.problems.items()
    )
    return Registry(tuple(offers), broken, tuple(chosen))


@contextlib.contextmanager
def _guarded(loading: _Loading, plugin: FoundPlugin, what: str) -> Iterator[None]:
    """Record whatever a plugin's code raises, `sys.exit` included; only a real Ctrl-C passes.

    What a plugin prints goes to stderr, since stdout is for results.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except BaseException as error:
        if type(error) is KeyboardInterrupt:
            raise
        loading.problem(plugin, f"{what}: {cause(error)}", error)


def _load(plugin: FoundPlugin, loading: _Loading) -> None:
    if plugin.problem:
        loading.problem(plugin, plugin.problem)
        return
    module: Any = None
    with _guarded(loading, plugin, "cannot be imported"):
        module = importlib.metadata.EntryPoint(plugin.name, plugin.value, GROUP).load()
    if module is None:
        return
    # A manager for each plugin: what pluggy finds wrong is then never another plugin's fault.
    manager = pluggy.PluginManager("fewcore")
    manager.add_hookspecs(hookspecs)
    registered = False
    with _guarded(loading, plugin, "a hook has a wrong signature; expected no arguments"):
        manager.register(module, plugin.name)
        registered = True
    if registered:
        _check_marks(plugin, module, manager, loading)
        for kind in KINDS.values():
            for implementation in getattr(manager.hook, kind.hook).get_hookimpls():
                _call(plugin, kind.name, kind.hook, implementation, loading)


def _check_marks(plugin: FoundPlugin, module: Any, manager: pluggy.PluginManager, loading: _Loading) -> None:
    """Record hook implementations that would never be called: misspelt, or without the mark."""
    hooks = [kind.hook for kind in KINDS.values()]
    marked = [caller.name for caller in manager.get_hookcallers(module) or []]
    for name in sorted(marked):
        if name not in hooks:
            hint = did_you_mean(name, hooks)
            loading.problem(plugin, f"'{name}' is no hook" + (f" ({hint})" if hint else ""))
    for name in hooks:
        if name not in marked and inspect.isroutine(getattr(module, name, None)):
            loading.problem(plugin, f"{name} is not marked; expected @hookimpl above it")
    if not marked and plugin not in loading.problems:
        loading.problem(plugin, f"offers nothing; expected a function marked @hookimpl, such as {hooks[0]}")


def _call(plugin: FoundPlugin, kind: str, hook: str, implementation: pluggy.HookImpl, loading: _Loading) -> None:
    if implementation.wrapper or implementation.hookwrapper:
        loading.problem(plugin, f"{hook} is a wrapper; expected a plain function that returns a list of Component")
        return
    made: Any = []
    with _guarded(loading, plugin, f"{hook} failed"):
        made = implementation.function()
        if isinstance(made, Iterable) and not isinstance(made, str | bytes):
            made = list(made)
    if not isinstance(made, list):
        loading.problem(plugin, f"{hook} returned {_short(made)}; expected a list of Component")
        return
    for component in made:
        fault = _fault(component)
        if fault:
            loading.problem(plugin, f"{hook} returned {fault}")
        else:
            offer = Offer(kind, component, plugin.distribution, plugin.version)
            loading.offers.append((offer, plugin))


def _short(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _fault(component: Any) -> str:
    """Return what is wrong with one element of a hook's list, or nothing."""
    if not isinstance(component, Component):
        return f"a list with {_short(component)} in it; expected Component alone"
    said: dict[str, Any] = vars(component)
    named = f"a Component named {component.name!r}"
    if not _matches(NAME, said["name"]):
        return f"{named}; expected lower-case letters and digits with hyphens, such as 'deep-cluster'"
    if not _matches(TARGET, said["target"]):
        return f"{named} with the target {component.target!r}; expected 'module:Class'"
    if not _matches(ONE_LINE, said["summary"]):
        return f"{named} with the summary {component.summary!r}; expected one line of text"
    if not isinstance(said["paper"], str):
        return f"{named} with the paper {component.paper!r}; expected text"
    if not isinstance(said["needs_labels"], bool):
        return f"{named} with needs_labels={component.needs_labels!r}; expected True or False"
    if not (isinstance(said["predicts"], tuple) and all(p in PREDICTS for p in component.predicts)):
        return f"{named} with predicts={component.predicts!r}; expected a tuple of {', '.join(PREDICTS)}"
    return ""


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _refuse_doubles(loading: _Loading) -> None:
    """Record names that one distribution offers twice in one kind; neither is kept, since no name tells them apart."""
    same: dict[tuple[str, str], list[tuple[Offer, FoundPlugin]]] = {}
    for offer, plugin in loading.offers:
        same.setdefault((offer.kind, offer.full_name), []).append((offer, plugin))
    for twice in same.values():
        if len(twice) > 1:
            offer, plugin = twice[0]
            targets = ", ".join(other.component.target for other, _ in twice)
            label = KINDS[offer.kind].label
            loading.problem(plugin, f"offers the {label} '{offer.name}' {len(twice)} times ({targets}); expected once")
            loading.offers = [pair for pair in loading.offers if pair not in twice]
