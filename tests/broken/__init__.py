"""Components that are broken in one way each, for the tests of the kit: each says which check must fail, and what it must say."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from fewcore import Component, Offer
from fewcore.testing import ConformanceError, Setup, checks_for

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Breakage:
    """A broken component: `check` must fail with a `message`, and beside it the checks `also` and no other.

    `also` is None where nothing can be asked of the others, since the component does not get as far.
    """

    name: str
    offer: Offer
    check: str
    message: str
    also: Set[str] | None


BROKEN: list[Breakage] = []


def broken(
    kind: str, check: str, message: str, *, also: Set[str] | None = frozenset(), **said: Any
) -> Callable[[T], T]:
    """Put a component of a kind, announced with what is `said`, among the broken ones."""

    def keep(cls: T) -> T:
        missing(kind, f"{cls.__module__}:{cls.__name__}", check, message, also=also, **said)
        return cls

    return keep


def missing(
    kind: str, target: str, check: str, message: str, *, also: Set[str] | None = frozenset(), **said: Any
) -> None:
    """Put the component of a target among the broken ones."""
    offer = Offer(kind, Component("thing", target, "a thing", **said), "fewcore-x", "1")
    BROKEN.append(Breakage(target.partition(":")[2], offer, check, message, also))


def failing(offer: Offer, setup: Setup | None = None) -> dict[str, str]:
    """Return the checks that fail, with their messages."""
    found = {}
    for check in checks_for(offer.kind):
        if check.__name__ != "runs_on_cuda":
            try:
                check(offer, setup or Setup())
            except ConformanceError as error:
                found[check.__name__] = str(error)
    return found
