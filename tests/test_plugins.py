"""Plugins under test are real distributions on a path of their own, loaded in a process of their own."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fewcore import PluginError, __version__
from fewcore.components import Component, Offer
from fewcore.plugins import KNOWN, BrokenPlugin, Registry, find_plugins, load_registry

ROOT = Path(__file__).parent.parent
HEAD = "from fewcore import Component, hookimpl\n"
GOOD = """
@hookimpl
def fewcore_partitioners():
    return [Component("NAME", "no_such_module:Class", "a partitioner")]
"""
REPORT = """
import json, sys
from fewcore.plugins import load_registry
registry = load_registry()
print(json.dumps({
    "offers": [[o.kind, o.full_name, o.version] for o in registry.offers],
    "broken": [[b.entry_point, b.distribution, b.version, b.reason] for b in registry.broken],
    "names": registry.names("partitioner"),
    "heavy": [name for name in ("torch", "sklearn", "scipy", "matplotlib") if name in sys.modules],
}))
"""


def install(
    folder: Path,
    distribution: str,
    code: str,
    *,
    version: str = "0.2",
    points: str = "",
    requires: str = "",
    **files: str,
) -> None:
    """Write a distribution as an installer would: a module and its dist-info."""
    module = distribution.replace("-", "_")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    needed = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needed}")
    name = distribution.removeprefix("fewcore-")
    (info / "entry_points.txt").write_text(points or f"[fewcore]\n{name} = {module}\n")
    for file, text in files.items():
        (info / file.replace("__", ".")).write_text(text)
    (folder / f"{module}.py").write_text(HEAD + textwrap.dedent(code))


def python(folder: Path, script: str = REPORT, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FEWCORE_")}
    where = {"PYTHONPATH": str(folder), **environment}
    return subprocess.run(
        [sys.executable, "-c", script], env=inherited | where, capture_output=True, text=True, timeout=60, check=False
    )


def loaded(folder: Path, **environment: str) -> dict[str, Any]:
    done = python(folder, **environment)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


BROKEN = {
    "missing import": (
        "import no_such_library",
        "cannot be imported: ModuleNotFoundError: No module named 'no_such_library'",
    ),
    "runtime error": ("raise RuntimeError('no GPU')", "cannot be imported: RuntimeError: no GPU"),
    "exit": ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3"),
    "exit without words": ("raise SystemExit", "cannot be imported: SystemExit"),
    "own base exception": ("class Stop(BaseException): pass\nraise Stop('now')", "cannot be imported: Stop: now"),
    "like ctrl-c": ("class Stop(KeyboardInterrupt): pass\nraise Stop", "cannot be imported: Stop"),
    "syntax error": ("def (", "cannot be imported: SyntaxError: invalid syntax"),
    "error without text": (
        "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
        "cannot be imported: Odd",
    ),
    "another fewcore": ("from fewcore import Widget", "cannot be imported: ImportError: cannot import name 'Widget'"),
    "nothing": ("", "offers nothing; expected a function marked @hookimpl, such as fewcore_datasets"),
    "hook raises": ("@hookimpl\ndef fewcore_learners(): raise KeyError('x')", "fewcore_learners failed: KeyError: 'x'"),
    "hook exits": ("@hookimpl\ndef fewcore_learners(): raise SystemExit(2)", "fewcore_learners failed: SystemExit: 2"),
    "hook fails half way": (
        "@hookimpl\ndef fewcore_learners():\n    yield Component('a', 'a:A', 'x')\n    raise OSError('gone')",
        "fewcore_learners failed: OSError: gone",
    ),
    "misspelt": (
        "@hookimpl\ndef fewcore_partitioner(): return []",
        "'fewcore_partitioner' is no hook (did you mean 'fewcore_partitioners'?)",
    ),
    "not marked": (
        "def fewcore_backbones(): return []",
        "fewcore_backbones is not marked; expected @hookimpl above it",
    ),
    "arguments": (
        "@hookimpl\ndef fewcore_backbones(config): return []",
        "a hook has a wrong signature; expected no arguments: PluginValidationError: Plugin 'sick' for hook "
        "'fewcore_backbones'",
    ),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef fewcore_backbones():\n    return (yield)",
        "fewcore_backbones is a wrapper; expected a plain function that returns a list of Component",
    ),
    "returns none": (
        "@hookimpl\ndef fewcore_learners(): pass",
        "fewcore_learners returned None; expected a list of Component",
    ),
    "returns text": (
        "@hookimpl\ndef fewcore_learners(): return 'maml'",
        "fewcore_learners returned a value of type str; expected a list of Component",
    ),
    "returns one": (
        "@hookimpl\ndef fewcore_learners(): return Component('a', 'a:A', 'x')",
        "fewcore_learners returned a value of type Component; expected a list of Component",
    ),
    "returns names": (
        "@hookimpl\ndef fewcore_learners(): return ['maml']",
        "fewcore_learners returned a list with a value of type str in it; expected Component alone",
    ),
    "upper case": (
        "@hookimpl\ndef fewcore_learners(): return [Component('My_Net', 'a:A', 'x')]",
        "a Component named 'My_Net'; expected lower-case letters and digits with hyphens, such as 'deep-cluster'",
    ),
    "colon": (
        "@hookimpl\ndef fewcore_learners(): return [Component('a:b', 'a:A', 'x')]",
        "a Component named 'a:b'; expected lower-case letters and digits with hyphens",
    ),
    "no class": (
        "@hookimpl\ndef fewcore_learners(): return [Component('a', 'a.A', 'x')]",
        "a Component named 'a' with the target 'a.A'; expected 'module:Class'",
    ),
    "no summary": (
        "@hookimpl\ndef fewcore_learners(): return [Component('a', 'a:A', '')]",
        "a Component named 'a' with the summary ''; expected one line of text",
    ),
    "labels": (
        "@hookimpl\ndef fewcore_learners(): return [Component('a', 'a:A', 'x', needs_labels='no')]",
        "a Component named 'a' with needs_labels='no'; expected True or False",
    ),
    "predicts": (
        "@hookimpl\ndef fewcore_learners(): return [Component('a', 'a:A', 'x', predicts=['score'])]",
        "a Component named 'a' with predicts=['score']; expected a tuple of scores, masks, values",
    ),
    "twice": (
        "@hookimpl\ndef fewcore_learners(): return [Component('a', 'a:A', 'x'), Component('a', 'a:B', 'x')]",
        "offers the learner 'a' 2 times (a:A, a:B); expected once",
    ),
}


def test_a_broken_plugin_is_one_record_and_harms_no_other(tmp_path: Path) -> None:
    """All broken plugins are installed at once, a good one before and after them."""
    install(tmp_path, "fewcore-aaa", GOOD.replace("NAME", "first"))
    install(tmp_path, "fewcore-zzz", GOOD.replace("NAME", "last"))
    for number, (code, _) in enumerate(BROKEN.values()):
        install(tmp_path, f"fewcore-sick{number}", code)
    found = loaded(tmp_path)
    assert {"fewcore-aaa:first", "fewcore-zzz:last", "fewcore:digits"} <= {offer[1] for offer in found["offers"]}
    assert not any("sick" in offer[1] for offer in found["offers"])
    assert len(found["broken"]) == len(BROKEN)
    assert found["heavy"] == []
    records = {record[0]: record for record in found["broken"]}
    for number, (name, (_, reason)) in enumerate(BROKEN.items()):
        _, distribution, version, said = records[f"sick{number}"]
        assert (distribution, version) == (f"fewcore-sick{number}", "0.2"), name
        assert reason.replace("'sick'", f"'sick{number}'") in said, name
        assert "\n" not in said, name


def test_what_a_plugin_offers_beside_its_fault_still_works(tmp_path: Path) -> None:
    code = GOOD.replace("NAME", "good") + "\n@hookimpl\ndef fewcore_learner(): return []\n"
    install(tmp_path, "fewcore-half", code + "\n@hookimpl\ndef fewcore_embedders(): raise OSError('x')\n")
    found = loaded(tmp_path)
    assert ["partitioner", "fewcore-half:good", "0.2"] in found["offers"]
    misspelt = "'fewcore_learner' is no hook (did you mean 'fewcore_learners'?)"
    reason = f"{misspelt}; fewcore_embedders failed: OSError: x"
    assert found["broken"] == [["half", "fewcore-half", "0.2", reason]]


def test_a_clash_refuses_only_the_bare_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        install(tmp_path, f"fewcore-{name}", GOOD.replace("NAME", "same"))
    assert loaded(tmp_path)["broken"] == []
    assert {"fewcore-one:same", "fewcore-two:same"} <= set(loaded(tmp_path)["names"])
    script = """
    from fewcore import PluginError, __version__
    from fewcore.plugins import load_registry
    registry = load_registry()
    print(registry.find("partitioner", "fewcore-two:same").distribution)
    print(registry.find("partitioner", "Fewcore_One:same").distribution)
    print([o.distribution for o in registry.clashes()["partitioner", "same"]])
    try:
        registry.find("partitioner", "same")
    except PluginError as error:
        print(error)
    """
    assert python(tmp_path, textwrap.dedent(script)).stdout.splitlines() == [
        "fewcore-two",
        "fewcore-one",
        "['fewcore-one', 'fewcore-two']",
        "partitioner 'same' is offered by 2 plugins; write one of: fewcore-one:same, fewcore-two:same",
    ]


CLASHING = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from fewcore import ImageSet, Partitions, Run

@hookimpl
def fewcore_partitioners():
    return [Component("same", "MODULE:Same", "a partitioner")]

@dataclass(frozen=True)
class Same:
    deterministic: ClassVar[bool] = True
    def partition(self, images: ImageSet, run: Run) -> Partitions:
        print("this is MODULE")
        return Partitions(np.arange(len(images))[None] % 3, images.ids)
"""
COMMAND = "import sys; from fewcore.cli import main; main(sys.argv[1:])"


def test_a_pipeline_chooses_the_component_of_a_distribution(tmp_path: Path) -> None:
    """The bare name is refused before anything runs; with the distribution in front that component runs, and no other."""
    for name in ("one", "two"):
        install(tmp_path, f"fewcore-{name}", CLASHING.replace("MODULE", f"fewcore_{name}"))
    file = tmp_path / "clash.yaml"

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        script = f"import sys; sys.argv[1:] = {list(arguments)!r}; {COMMAND}"
        return python(tmp_path, script, FEWCORE_CACHE=str(tmp_path / "cache"), FEWCORE_PLUGINS="one,two")

    def write(partitioner: str) -> None:
        stages = f"  data: {{dataset: digits}}\n  parts: {{partitioner: {partitioner}}}\n"
        file.write_text(f"fewcore: 1\nname: clash\nstages:\n{stages}")

    write("same")
    refused = command("check", str(file))
    assert refused.returncode == 2, refused.stderr
    assert "'same' is offered by 2 plugins; write one of: fewcore-one:same, fewcore-two:same" in refused.stderr
    for name, other in (("one", "two"), ("two", "one")):
        write(f"fewcore-{name}:same")
        done = command("run", str(file), "--device", "cpu", "--out", str(tmp_path / f"run-{name}"))
        assert done.returncode == 0, done.stderr
        assert f"this is fewcore_{name}" in done.stdout + done.stderr
        assert f"this is fewcore_{other}" not in done.stdout + done.stderr
    assert command("plugins").stdout.count("clash: write fewcore-") == 2


@pytest.mark.parametrize(
    ("requires", "fits"),
    [
        ("", True),
        ("fewcore>=0.1", True),
        ("fewcore[meta] (>=0.1,<0.2)", True),
        ("fewcore>=99; extra == 'dev'", True),
        ("fewcore-meta>=99", True),
        ("fewcore what", True),
        ("Fewcore>=99", False),
        ("fewcore<0.1", False),
    ],
)
def test_a_plugin_that_was_written_for_another_fewcore_is_told_and_not_imported(
    tmp_path: Path, requires: str, fits: bool
) -> None:
    install(tmp_path, "fewcore-late", "print('imported')" + GOOD.replace("NAME", "late"), requires=requires)
    done = python(tmp_path, FEWCORE_PLUGINS="late")
    assert ("imported" in done.stderr) == fits
    found = json.loads(done.stdout)
    assert any(offer[1] == "fewcore-late:late" for offer in found["offers"]) == fits
    if not fits:
        needed = requires.replace("Fewcore", "fewcore")
        reason = f"was written for {needed}; found fewcore {__version__} (type pip install --upgrade fewcore-late, or "
        assert found["broken"] == [["late", "fewcore-late", "0.2", f"{reason}pip install '{needed}')"]]


def test_metadata_that_cannot_be_read_is_a_record_where_it_is_ours(tmp_path: Path) -> None:
    install(tmp_path, "fewcore-garbled", "", points="[fewcore]\nno equals sign here\n")
    install(tmp_path, "strangers", "", points="[console_scripts]\nno equals sign here\n")
    broken = loaded(tmp_path)["broken"]
    assert [record[1] for record in broken] == ["fewcore-garbled"]
    assert broken[0][3].startswith("its entry_points.txt cannot be read: ")


def test_what_a_plugin_prints_does_not_reach_stdout(tmp_path: Path) -> None:
    install(tmp_path, "fewcore-chatty", "print('hello')" + GOOD.replace("NAME", "chatty"))
    done = python(tmp_path)
    assert "hello" not in done.stdout
    assert "hello" in done.stderr


def test_a_real_ctrl_c_passes(tmp_path: Path) -> None:
    install(tmp_path, "fewcore-slow", "raise KeyboardInterrupt")
    assert "KeyboardInterrupt" in python(tmp_path).stderr.splitlines()[-1]


def test_only_the_plugins_that_are_asked_for_are_loaded(tmp_path: Path) -> None:
    install(tmp_path, "fewcore-one", GOOD.replace("NAME", "one"))
    install(tmp_path, "fewcore-bad", "raise RuntimeError")

    def distributions(**environment: str) -> set[str]:
        found = loaded(tmp_path, **environment)
        assert not found["broken"]
        return {offer[1].partition(":")[0] for offer in found["offers"]}

    assert distributions(FEWCORE_PLUGINS="fewcore_one") == {"fewcore", "fewcore-one"}
    assert distributions(FEWCORE_PLUGINS=" one ,") == {"fewcore", "fewcore-one"}
    assert distributions(FEWCORE_PLUGINS="") == {"fewcore"}
    broken = loaded(tmp_path, FEWCORE_PLUGINS="onne")["broken"]
    assert broken[0][:2] == ["onne", "FEWCORE_PLUGINS"]
    assert broken[0][3].startswith("no such plugin is installed; expected some of: fewcore, ")


def test_strict_raises_with_the_cause(tmp_path: Path) -> None:
    install(tmp_path, "fewcore-sick", "raise RuntimeError('no GPU')")
    done = python(tmp_path, FEWCORE_STRICT="1", FEWCORE_PLUGINS="sick")
    assert done.returncode == 1
    assert "RuntimeError: no GPU\n\nThe above exception was the direct cause" in done.stderr
    last = "PluginError: plugin 'sick' from fewcore-sick 0.2: cannot be imported: RuntimeError: no GPU"
    assert done.stderr.splitlines()[-1].endswith(last)
    assert loaded(tmp_path, FEWCORE_STRICT="0", FEWCORE_PLUGINS="sick")["broken"]


def test_find_plugins_imports_nothing_and_sorts(tmp_path: Path) -> None:
    install(tmp_path, "fewcore-zz", "raise RuntimeError")
    install(tmp_path, "aa-fewcore", "raise RuntimeError", points="[fewcore]\nb = aa_fewcore\na = aa_fewcore\n")
    script = "from fewcore.plugins import find_plugins\nimport sys\nprint([(p.distribution, p.name) for p in find_plugins()])"
    done = python(tmp_path, script + "\nassert 'fewcore_zz' not in sys.modules and 'aa_fewcore' not in sys.modules")
    found = ast.literal_eval(done.stdout)
    assert found[:3] == [("fewcore", "builtin"), ("aa-fewcore", "a"), ("aa-fewcore", "b")]
    assert found[-1] == ("fewcore-zz", "zz")


def test_the_first_distribution_of_a_name_counts(tmp_path: Path) -> None:
    for folder, version in (("new", "2.0"), ("old", "1.0")):
        install(tmp_path / folder, "fewcore-same", GOOD.replace("NAME", folder), version=version)
    found = loaded(tmp_path, PYTHONPATH=f"{tmp_path / 'new'}{os.pathsep}{tmp_path / 'old'}", FEWCORE_PLUGINS="same")
    assert [offer for offer in found["offers"] if "same" in offer[1]] == [["partitioner", "fewcore-same:new", "2.0"]]


DIGEST = """
import importlib.metadata, sys
from fewcore.plugins import load_registry, source_digest
offer = load_registry().find("partitioner", "under-test")
print(source_digest(offer))
assert "fewcore_dev.method" not in sys.modules and "fewcore_dev" not in sys.modules
"""
EDITABLE = '{"url": "file:///src", "dir_info": {"editable": true}}'


@pytest.mark.parametrize(
    ("direct_url", "digested"),
    [(EDITABLE, True), ('{"url": "file:///src", "dir_info": {}}', False), ("", False), ("no JSON", False)],
)
def test_source_digest_is_for_editable_installs(tmp_path: Path, direct_url: str, digested: bool) -> None:
    code = '@hookimpl\ndef fewcore_partitioners(): return [Component("under-test", "fewcore_dev.method:M", "x")]'
    files = {"direct_url__json": direct_url} if direct_url else {}
    install(tmp_path, "fewcore-announce", code, points="[fewcore]\nannounce = fewcore_announce\n", **files)
    package = tmp_path / "fewcore_dev"
    (package / "deep").mkdir(parents=True)
    for name in ("__init__", "method", "deep/helper"):
        (package / f"{name}.py").write_text("x = 1\n")
    first, again = (python(tmp_path, DIGEST).stdout.strip() for _ in range(2))
    assert (first == "None") != digested
    assert first == again
    if digested:
        assert len(first) == 64
        (package / "notes.txt").write_text("no code")
        assert python(tmp_path, DIGEST).stdout.strip() == first
        (package / "deep" / "helper.py").write_text("x = 2\n")
        assert python(tmp_path, DIGEST).stdout.strip() != first
        (package / "deep" / "helper.py").write_text("x = 1\n")
        (package / "deep" / "helper.py").rename(package / "deep" / "other.py")
        assert python(tmp_path, DIGEST).stdout.strip() != first


def offer(kind: str, name: str, distribution: str = "fewcore-x") -> Offer:
    return Offer(kind, Component(name, "a:A", "x"), distribution, "1")


def test_unknown_names_say_what_to_type() -> None:
    sick = BrokenPlugin("sick", "fewcore-sick", "0.2", "cannot be imported: OSError")
    registry = Registry((offer("meta_learner", "knn"), offer("learner", "fine-tune")), ())

    def message(kind: str, name: str, registry: Registry = registry) -> str:
        with pytest.raises(PluginError) as caught:
            registry.find(kind, name)
        return str(caught.value)

    assert message("meta_learner", "maml") == (
        "no meta-learner named 'maml'; installed: knn; install it with: pip install 'fewcore[meta]'"
    )
    assert message("meta_learner", "knnn") == "no meta-learner named 'knnn'; installed: knn; did you mean 'knn'?"
    assert message("meta_learner", "fine-tune") == (
        "no meta-learner named 'fine-tune'; installed: knn; 'fine-tune' is of another kind; write {learner: fine-tune}"
    )
    assert message("embedder", "zzz") == "no embedder named 'zzz'; installed: none"
    assert message("meta_learner", "fewcore-y:knn").startswith("no meta-learner named 'fewcore-y:knn'; installed: knn")
    assert message("learner", "zzz", Registry((), (sick,))) == (
        "no learner named 'zzz'; installed: none; broken plugins, one of which may offer it: plugin 'sick' from "
        "fewcore-sick 0.2: cannot be imported: OSError"
    )
    assert message("wizard", "zzz") == "no wizard named 'zzz'; installed: none"


def test_install_lines_agree_with_what_the_plugins_offer() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(KNOWN.values()) == {extra for extra, installs in extras.items() if installs == [f"fewcore-{extra}"]}
    offers = load_registry().offers
    for extra in set(KNOWN.values()):
        offered = {offer.name for offer in offers if offer.distribution == f"fewcore-{extra}"}
        assert {name for name, where in KNOWN.items() if where == extra} == offered, extra


def test_ours_are_found_and_whole() -> None:
    registry = load_registry()
    assert registry is load_registry()
    assert not registry.broken
    assert [plugin.name for plugin in find_plugins() if plugin.is_ours] == ["builtin"]
    assert registry.find("dataset", "digits").full_name == "fewcore:digits"
