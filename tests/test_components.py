from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fewcore import Component, Offer, PluginError, option

Write = Callable[[str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module and return its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(code: str) -> str:
        name = f"module_under_test_{len(list(tmp_path.iterdir()))}"
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def offer(target: str) -> Offer:
    return Offer("meta_learner", Component("thing", target, "a thing"), "fewcore-x", "0.2")


def test_names() -> None:
    assert offer("a:A").name == "thing"
    assert offer("a:A").full_name == "fewcore-x:thing"


def test_load_returns_the_class(module: Write) -> None:
    name = module("from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Thing:\n    x: int = 1\n")
    assert offer(f"{name}:Thing").load().__name__ == "Thing"


WHO = "meta learner 'thing' from fewcore-x 0.2"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import missing_torch_ext",
            f"{WHO} cannot be imported: ModuleNotFoundError: No module named 'missing_torch_ext'",
        ),
        ("import sys; sys.exit('no CUDA')", f"{WHO} cannot be imported: SystemExit: no CUDA"),
        ("x = 1", f"{WHO} cannot be imported: AttributeError: module"),
        ("class Thing: pass", rf"{WHO}: .*:Thing is no dataclass; expected a frozen dataclass"),
        ("Thing = 3", rf"{WHO}: .*:Thing is no dataclass; expected a frozen dataclass"),
    ],
)
def test_load_names_component_distribution_and_cause(module: Write, code: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        offer(f"{module(code)}:Thing").load()


def test_an_option_has_a_default_and_says_what_it_is() -> None:
    @dataclasses.dataclass(frozen=True)
    class Blur:
        radius: int = option(..., "radius of the kernel")
        sigma: float = option(1.0, "width of the kernel", unit="pixels", paper="2", low=0, high=9)

    assert Blur(3).sigma == 1.0
    with pytest.raises(TypeError, match="radius"):
        Blur()
    said = {field.name: dict(field.metadata) for field in dataclasses.fields(Blur)}
    assert said["sigma"] == {"meaning": "width of the kernel", "unit": "pixels", "paper": "2", "low": 0, "high": 9}
    assert said["radius"]["meaning"] == "radius of the kernel"


def test_components_are_values() -> None:
    assert Component("a", "a:A", "x") == Component("a", "a:A", "x")
    assert len({Component("a", "a:A", "x"), Component("a", "a:A", "x")}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        Component("a", "a:A", "x").name = "b"  # type: ignore[misc]
