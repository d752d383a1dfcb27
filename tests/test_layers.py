"""Who may import whom, and what nobody may call. Read from the source, so that code that never runs counts too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fewcore

ROOT = Path(__file__).parent.parent
CORE = ROOT / "fewcore"
APART = ("builtin", "testing")
MODULES = {
    ".".join(path.relative_to(CORE).with_suffix("").parts): path
    for path in sorted(CORE.glob("**/*.py"))
    if path.relative_to(CORE).parts[0] not in APART and (path.parent == CORE or path.stem != "__init__")
}
BUILTIN = sorted((CORE / "builtin").glob("**/*.py"))
PLUGINS = sorted(ROOT.glob("plugins/*/src/**/*.py"))
SHIPPED = sorted([*CORE.glob("**/*.py"), *PLUGINS])

Imported = tuple[str, str]
"""A module and the name imported from it, empty for `import module`."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path, *, for_types: bool = False) -> Iterator[Imported]:
    """Yield what a file imports when it runs, functions included; with `for_types` under TYPE_CHECKING too."""

    def visit(node: ast.AST) -> Iterator[Imported]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test) and not for_types:
                for other in child.orelse:
                    yield from visit(other)
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, "") for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{relative(path)}: a relative import"
                yield from ((child.module or "", alias.name) for alias in child.names)
            yield from visit(child)

    yield from visit(ast.parse(path.read_text()))


def core_modules(path: Path) -> set[str]:
    """Return the modules of the core that a file imports when it runs: `contracts`, `reports.page`."""
    found = set()
    for module, name in imports(path):
        if module != "fewcore" and not module.startswith("fewcore."):
            continue
        inner = module.removeprefix("fewcore").removeprefix(".")
        whole = f"{inner}.{name}".strip(".")
        if inner.split(".")[0] in APART or whole in APART:
            found.add(whole.split(".")[0])
        else:
            found.add(whole if whole in MODULES else inner or "__init__")
    return found


MAY_IMPORT = {
    "errors": set[str](),
    "kinds": set[str](),
    "seeds": set[str](),
    "components": {"errors"},
    "hookspecs": {"components"},
    "contracts": {"errors"},
    "metrics": {"contracts", "errors"},
    "samples": {"contracts"},
    "grouping": {"contracts", "errors", "metrics", "samples", "seeds", "statistics"},
    "numbered_tasks": {"contracts"},
    "protocols": {"contracts"},
    "installed": {"__init__", "components"},
    "plugins": {"components", "errors", "hookspecs", "installed", "kinds"},
    "options": {"errors"},
    "yaml12": {"errors"},
    "checkpoint": set[str](),
    "views": {"contracts", "errors", "seeds"},
    "store": {"contracts", "errors"},
    "statistics": {"contracts", "errors", "seeds"},
}
"""Modules at the bottom, each with all that it may import."""

MAY_NOT_IMPORT = {
    "pipeline": {"runner", "session", "store", "reports.report", "cli"},
    "wiring": {"pipeline", "runner", "session", "store", "reports.report", "cli"},
    "session": {"runner", "reports.report", "cli"},
    "outcomes": {"runner", "reports.report", "cli"},
    "runner": {"reports.report", "cli"},
    "reports.report": {"runner", "session", "pipeline", "plugins", "cli"},
}


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_the_modules_at_the_bottom_stay_there(module: str) -> None:
    assert core_modules(MODULES[module]) <= MAY_IMPORT[module]


@pytest.mark.parametrize("module", MAY_NOT_IMPORT)
def test_nothing_imports_what_stands_above_it(module: str) -> None:
    assert not core_modules(MODULES[module]) & MAY_NOT_IMPORT[module]


def test_there_is_no_circle() -> None:
    graph = {name: core_modules(path) - {"__init__"} for name, path in MODULES.items() if name != "__init__"}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_the_core_imports_neither_plugins_nor_its_own_components_nor_the_kit(module: str) -> None:
    assert not core_modules(MODULES[module]) & {"builtin", "testing"}
    plugins = {name for name, _ in imports(MODULES[module], for_types=True) if name.startswith("fewcore_")}
    assert not plugins
    assert "cli" not in core_modules(MODULES[module]) or module == "__main__"


@pytest.mark.parametrize("path", [*BUILTIN, *PLUGINS], ids=relative)
def test_components_import_only_what_fewcore_exports(path: Path) -> None:
    own = "fewcore.builtin" if path in BUILTIN else path.relative_to(ROOT).parts[3]
    for module, name in imports(path, for_types=True):
        if module == "fewcore":
            assert name in fewcore.__all__, f"fewcore does not export {name}"
        elif module.split(".")[0].startswith("fewcore"):
            assert module == own or module.startswith(f"{own}."), f"expected 'from fewcore import ...', not {module}"


@pytest.mark.parametrize("path", [p for p in [*BUILTIN, *PLUGINS] if p.name == "plugin.py"], ids=relative)
def test_announcements_import_nothing_else(path: Path) -> None:
    assert set(imports(path)) <= {("fewcore", "Component"), ("fewcore", "hookimpl"), ("__future__", "annotations")}


def test_every_export_exists() -> None:
    assert sorted(fewcore.__all__) == list(fewcore.__all__)
    for name in fewcore.__all__:
        assert getattr(fewcore, name) is not None
    with pytest.raises(AttributeError, match="module 'fewcore' has no attribute 'nothing'"):
        _ = fewcore.nothing


HEAVY = ("torch", "sklearn", "scipy", "matplotlib", "timm", "monai")
LIGHT = [
    "import fewcore",
    "import fewcore.options",
    "import fewcore.hookspecs",
    "from fewcore.plugins import load_registry; load_registry()",
    "import runpy; sys.argv = ['fewcore', '--help']; runpy.run_module('fewcore', run_name='__main__')",
]


@pytest.mark.parametrize("code", LIGHT)
def test_what_must_start_quickly_imports_nothing_heavy(code: str) -> None:
    report = f"import atexit, sys\natexit.register(lambda: print('heavy:', [n for n in {HEAVY} if n in sys.modules]))\n"
    done = subprocess.run(
        [sys.executable, "-c", report + code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "torch.save",
    "torch.hub.load",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "pandas.read_pickle",
}
MAY_IMPORT_BY_NAME = {
    "fewcore/__init__.py",
    "fewcore/components.py",
    "fewcore/doctor.py",
    "plugins/fewcore-graphmtl/src/fewcore_graphmtl/__init__.py",
}


def faults(source: str, path: str) -> list[str]:
    """Return the lines of a file on which data could become code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        wrong = [name for name in names if name.split(".")[0] in FORBIDDEN_MODULES or name in FORBIDDEN_CALLS]
        found += [f"{getattr(node, 'lineno', 0)}: {name}" for name in wrong]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in FORBIDDEN_CALLS:
                found.append(f"{node.lineno}: {called}")
            if keywords.get("allow_pickle", "False") != "False" or keywords.get("shell", "False") != "False":
                found.append(f"{node.lineno}: {called}({keywords})")
            if called in ("np.save", "numpy.save", "np.savez") and keywords.get("allow_pickle") != "False":
                found.append(f"{node.lineno}: {called} without allow_pickle=False")
            if called in ("importlib.import_module", "import_module") and path not in MAY_IMPORT_BY_NAME:
                found.append(f"{node.lineno}: {called}")
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_data_never_becomes_code(path: Path) -> None:
    assert not faults(path.read_text(), relative(path))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.memory",
        "eval('1')",
        "x = exec(code)",
        "torch.load(f, weights_only=False)",
        "from torch import load",
        "yaml.load(text, Loader=yaml.Loader)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trust)",
        "np.save(path, array)",
        "importlib.import_module(name)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_the_gate_sees(line: str) -> None:
    assert faults(line, "fewcore/x.py")


@pytest.mark.parametrize(
    "line", ["network.eval()", "np.load(p, mmap_mode='r')", "re.compile('x')", "yaml.safe_load(text)"]
)
def test_the_gate_lets_pass(line: str) -> None:
    assert not faults(line, "fewcore/x.py")
