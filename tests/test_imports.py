"""Who may import whom, and what pytest's start may load: design rules as tests."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_torchexport

PACKAGE = Path(pytest_torchexport.__file__).parent
HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "numpy", "hypothesis")


# -- what pytest's start loads ---------------------------------------------------------------------


def loaded_by(code: str, *arguments: str, cwd: Path | None = None) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after the code."""
    script = f"{code}\nimport sys\nprint('LOADED', *[n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert lines, done.stdout + done.stderr
    return set(lines[-1].split()[1:])


COLLECT = """
import pytest, sys
status = pytest.main([*sys.argv[1:], "--collect-only", "-q", "-p", "no:hypothesispytest",
                      "-p", "no:jaxtyping", "-p", "no:cacheprovider"])
assert status == 0, status
"""


@pytest.mark.parametrize(
    "module",
    [
        "plugin",
        "settings",
        "failures",
        "verdict",
        "items",
        "session",
        "plan",
        "progress",
        "targets",
        "checks",
        "spec.dims",
        "spec.options",
        "reports.terminal",
        "reports.json",
    ],
)
def test_importing_what_pytest_starts_with_loads_nothing_heavy(module):
    assert loaded_by(f"import pytest_torchexport.{module}") == set()


def test_the_public_package_loads_nothing_heavy_until_it_is_used():
    assert loaded_by("import pytest_torchexport; dir(pytest_torchexport)") == set()
    failures = "from pytest_torchexport import ExportRefused, OutputsDiffer, Verdict"
    assert loaded_by(failures) == set()


def test_a_suite_that_does_not_use_the_plugin_does_not_notice_it(tmp_path):
    (tmp_path / "test_unrelated.py").write_text(
        "import unittest, pytest\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_one(n): assert n\n"
        "class TestCase(unittest.TestCase):\n"
        "    def test_two(self): pass\n"
    )
    assert loaded_by(COLLECT, str(tmp_path), cwd=tmp_path) == set()


def test_running_an_unrelated_suite_loads_nothing_heavy_either(tmp_path):
    (tmp_path / "test_unrelated.py").write_text(
        "import unittest\n"
        "def test_one(): pass\n"
        "class TestCase(unittest.TestCase):\n"
        "    def test_two(self): pass\n"
    )
    code = COLLECT.replace('"--collect-only", ', "")
    assert loaded_by(code, str(tmp_path), cwd=tmp_path) == set()


def test_that_check_can_fail(tmp_path):
    (tmp_path / "test_torch.py").write_text("import torch\ndef test_one(): pass\n")
    assert "torch" in loaded_by(COLLECT, str(tmp_path), cwd=tmp_path)
    assert "numpy" in loaded_by("import numpy")


# -- who may know whom -----------------------------------------------------------------------------


def imports_of(path: Path, *, lazily: bool) -> set[str]:
    """Modules of this package that a file imports: at its top, or inside functions too."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    inside = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in guarded or (not lazily and id(node) in inside):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "pytest_torchexport"
        ):
            module = (node.module or "").removeprefix("pytest_torchexport").lstrip(".")
            for alias in node.names:
                full = f"{module}.{alias.name}".lstrip(".")
                exists = (PACKAGE / f"{full.replace('.', '/')}.py").exists() or (
                    PACKAGE / full.replace(".", "/") / "__init__.py"
                ).exists()
                found.add(full if exists else module)
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("pytest_torchexport").lstrip(".")
                for alias in node.names
                if alias.name.startswith("pytest_torchexport")
            }
    return found - {""}


def files() -> dict[str, Path]:
    return {
        str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def room(module: str) -> str:
    return module.removesuffix(".__init__").partition(".")[0]


# settings, failures, verdict <- spec <- observe, compare, strategies <- targets, sandbox
# <- explore, calibrate, shrink <- checks <- diagnosis <- engine <- (lazily) capture, plugin
LEVELS = {
    "failures": 0,
    "verdict": 0,
    "messages": 0,
    "limits": 0,
    "tree": 0,
    "dispatch": 1,
    "fingerprint": 1,
    "hash_order": 1,
    "settings": 1,
    "rounding": 2,
    "spec": 2,
    "plan": 3,
    "observe": 3,
    "subject": 3,
    "recipes": 3,
    "compare": 4,
    "strategies": 4,
    "quiet": 4,
    "effect": 5,
    "ledger": 5,
    "preflight": 5,
    "sandbox": 5,
    "targets": 5,
    "watch": 5,
    "calibrate": 6,
    "eager": 6,
    "legal": 6,
    "runners": 6,
    "shrink": 6,
    "explore": 7,
    "checks": 8,
    "judge": 9,
    "stages": 10,
    "engine": 11,
    "capture": 12,
    "fixture": 13,
    "items": 13,
    "progress": 13,
    "running": 13,
    "session": 14,
    "plugin": 15,
}
# What knows only the verdict, and what hands out names, is judged by tests of its own below.
ELSEWHERE = {"__init__", "reports"}
# The registries of names that markers are judged by while pytest collects: no target, no check is
# loaded by them.
NAMES_ONLY = {"targets", "checks"}


def upward(module: str, imported: set[str]) -> set[str]:
    """What a module imports from a room above its own."""
    own = LEVELS.get(room(module))
    return {
        name
        for name in imported
        if own is not None
        and name not in NAMES_ONLY
        and room(name) != room(module)
        and LEVELS.get(room(name), own) > own
    }


def test_imports_run_one_way():
    found = {
        module: sorted(above)
        for module, path in files().items()
        if room(module) != "__init__" and (above := upward(module, imports_of(path, lazily=False)))
    }
    assert found == {}


def test_every_room_has_its_place():
    assert {room(module) for module in files()} - set(LEVELS) == ELSEWHERE
    assert set(LEVELS) <= {room(module) for module in files()}


def test_the_direction_check_can_fail(tmp_path):
    bad = tmp_path / "compare.py"
    bad.write_text("from pytest_torchexport.engine import check\n")
    assert upward("compare", imports_of(bad, lazily=False)) == {"engine"}


def test_nothing_imports_the_plugin():
    importers = [
        module for module, path in files().items() if "plugin" in imports_of(path, lazily=True)
    ]
    assert importers == []


@pytest.mark.parametrize("name", ["reports", "baseline"])
def test_reports_and_the_baseline_know_only_the_verdict(name):
    for module, path in files().items():
        if room(module) == name:
            known = {room(item) for item in imports_of(path, lazily=True)}
            assert known <= {"verdict", "failures", "reports"}, module


def test_the_failures_and_the_verdict_know_nobody_at_their_top():
    for name in ("failures", "verdict"):
        assert imports_of(files()[name], lazily=False) == set()


def test_the_engine_knows_nothing_of_pytest():
    below = [name for name, level in LEVELS.items() if 2 <= level <= LEVELS["engine"]]
    for module, path in files().items():
        if room(module) in below:
            names = {
                alias.name.partition(".")[0]
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import)
                for alias in node.names
            }
            assert "pytest" not in names, module


def test_no_module_of_the_start_imports_torch_at_its_top():
    start = ("plugin", "settings", "failures", "verdict", "reports", "baseline", "items", "session")
    for module, path in files().items():
        if room(module) not in start:
            continue
        tops = {
            name.partition(".")[0]
            for node in ast.parse(path.read_text()).body
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
        }
        assert not tops & set(HEAVY), module


# -- the public names ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", pytest_torchexport.__all__)
def test_every_public_name_resolves(name):
    value = getattr(pytest_torchexport, name)
    assert value is getattr(pytest_torchexport, name)
    assert getattr(value, "__doc__", None)


def test_all_is_sorted_complete_and_what_dir_shows():
    assert sorted(pytest_torchexport.__all__) == sorted(set(pytest_torchexport.__all__))
    assert set(pytest_torchexport.__all__) == set(pytest_torchexport._HOMES)
    assert dir(pytest_torchexport) == sorted(pytest_torchexport.__all__)


def test_every_failure_is_public():
    failures = importlib.import_module("pytest_torchexport.results.failures")
    classes = {cls.__name__ for cls in failures.Failure.__subclasses__()} | {"Failure"}
    assert classes <= set(pytest_torchexport.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'check_exports'"):
        _ = pytest_torchexport.check_exports
