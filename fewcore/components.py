"""What a plugin offers (`Component`), and the same once fewcore knows who offers it (`Offer`)."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import Any, TypeVar

from fewcore.errors import PluginError

T = TypeVar("T")


@dataclass(frozen=True)
class Component:
    """A method that a plugin announces, without importing it.

    `name` is what a pipeline file says. `target` is `module:Class`; the class is a frozen dataclass whose fields are
    the options (see `option`) and which has the one verb of its kind. `summary` is one line. `paper` is the source
    (DOI, arXiv or a short citation). `needs_labels` is true where the training targets are read; otherwise fewcore
    hides them. `predicts` names what a learner's predictor makes: `scores`, `masks`, `values`.
    """

    name: str
    target: str
    summary: str
    paper: str = ""
    needs_labels: bool = False
    predicts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Offer:
    """A component together with its kind and the distribution that offers it."""

    kind: str
    component: Component
    distribution: str
    version: str

    @property
    def name(self) -> str:
        """The name that pipeline files use."""
        return self.component.name

    @property
    def full_name(self) -> str:
        """The name that is never ambiguous: `distribution:name`."""
        return f"{self.distribution}:{self.name}"

    def load(self) -> type[Any]:
        """Import the component's class.

        Raises:
            PluginError: the module cannot be imported, or holds no dataclass of that name. The message names the
                component, its distribution and version, and the cause.

        """
        who = f"{self.kind.replace('_', ' ')} '{self.name}' from {self.distribution} {self.version}"
        module, _, attribute = self.component.target.partition(":")
        try:
            cls = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            raise PluginError(f"{who} cannot be imported: {type(error).__name__}: {error}") from error
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            raise PluginError(f"{who}: {self.component.target} is no dataclass; expected a frozen dataclass")
        return cls


def option(default: Any, meaning: str, *, unit: str = "", paper: str = "", low: Any = None, high: Any = None) -> Any:
    """Declare an option of a component: a dataclass field with a meaning, a unit and bounds.

    `default` is the value where a pipeline file says nothing; `...` makes the option required. `paper` is the value
    of the paper where it differs from the default or depends on the data. `low` and `high` are inclusive bounds,
    checked when a pipeline is read. `fewcore describe NAME` prints all of it.

    >>> @dataclass(frozen=True)
    ... class Blur:
    ...     sigma: float = option(1.0, "width of the kernel", unit="pixels", low=0)
    >>> Blur().sigma
    1.0
    """
    metadata = {"meaning": meaning, "unit": unit, "paper": paper, "low": low, "high": high}
    if default is ...:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
