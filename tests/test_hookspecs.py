"""Every hook's docstring holds a complete plugin; each is written out, announced, and put through the conformance kit."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fewcore import Component, Offer, hookspecs
from fewcore.kinds import KINDS
from fewcore.testing import Check, Setup, checks_for

HOOKS = [name for name in vars(hookspecs) if name.startswith("fewcore_")]
BLOCK = re.compile(r"```python\n# (\w+)\.py\n(.*?)```", re.DOTALL)
PAIRS = [(kind, check) for kind in KINDS for check in checks_for(kind)]


def example(hook: str) -> dict[str, str]:
    return dict(BLOCK.findall(inspect.getdoc(getattr(hookspecs, hook)) or ""))


@pytest.fixture
def offers(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Offer]]:
    """The offers of a kind's example, written out as files."""
    kind = KINDS[request.param]
    for name, code in example(kind.hook).items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    components: list[Component] = getattr(importlib.import_module("plugin"), kind.hook)()
    yield [Offer(kind.name, component, "fewcore-of-the-docs", "1") for component in components]
    for name in ("plugin", "method"):
        sys.modules.pop(name, None)


def test_there_is_a_hook_for_every_kind_and_no_other() -> None:
    assert set(HOOKS) == {kind.hook for kind in KINDS.values()}
    assert len({kind.verb for kind in KINDS.values()}) == len(KINDS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_says_what_to_return_and_has_an_example(hook: str) -> None:
    spec = getattr(hookspecs, hook)
    assert list(example(hook)) == ["plugin", "method"]
    assert spec.fewcore_spec
    assert not inspect.signature(spec).parameters
    assert spec() == []
    verb = next(kind.verb for kind in KINDS.values() if kind.hook == hook)
    assert re.search(rf"components with\s+`{verb}\(", spec.__doc__)


@pytest.mark.parametrize("hook", HOOKS)
def test_an_announcement_imports_nothing_but_fewcore(hook: str) -> None:
    assert re.findall(r"^(?:from|import) (\w+)", example(hook)["plugin"], re.MULTILINE) == ["fewcore"]


@pytest.mark.parametrize(
    ("offers", "check"), PAIRS, ids=[f"{kind}-{check.__name__}" for kind, check in PAIRS], indirect=["offers"]
)
def test_the_example_keeps_the_contract(offers: list[Offer], check: Check) -> None:
    if check.__name__ == "runs_on_cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    assert offers
    for offer in offers:
        check(offer, Setup())
