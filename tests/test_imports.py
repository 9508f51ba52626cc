"""Hold what an import may load, and what the folders of the package look like.

Who may import whom stands in pyproject.toml, `[tool.importlinter]`; `tox -e lint` checks it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import pytest_torchexport
from pytest_torchexport.config.names import BUILT_IN
from pytest_torchexport.results.reports import ENTRY_POINT_GROUP

ROOT = Path(__file__).parents[1]
PACKAGE = Path(pytest_torchexport.__file__).parent
HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "numpy", "hypothesis")
# Loaded by the first marked item; every other module of these rooms is loaded when pytest starts.
LOADED_BY_ITEMS = {
    "plugin.caller",
    "plugin.capture",
    "plugin.direct_forward",
    "plugin.fixture",
    "plugin.record",  # loaded by its flag, as the survey is
    "plugin.same",
    "plugin.stand_in",
    "plugin.survey",
}
STARTING_ROOMS = ("results", "config", "plugin")
SANDBOX = ("sandbox.with_torch", "sandbox.child", "targets.trace")


def files() -> dict[str, Path]:
    """Return the files of the package by the names of their modules, without the package's own."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


# -- what an import loads --------------------------------------------------------------------------


def loaded_by(
    code: str, *arguments: str, watched: tuple[str, ...] = HEAVY, cwd: Path | None = None
) -> set[str]:
    """Return the watched modules that a fresh interpreter has loaded after the code."""
    script = f"{code}\nimport sys\nprint('LOADED', *[n for n in {watched!r} if n in sys.modules])"
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


def test_pytest_starts_with_nothing_heavy():
    started = [
        name
        for name in files()
        if name.partition(".")[0] in STARTING_ROOMS and name not in LOADED_BY_ITEMS
    ]
    assert {"plugin.run", "results.verdict", "config.names"} <= set(started)
    imports = "\n".join(f"import pytest_torchexport.{name}" for name in started)
    assert loaded_by(imports) == set()


def test_the_public_package_loads_nothing_heavy_until_it_is_used():
    assert loaded_by("import pytest_torchexport; dir(pytest_torchexport)") == set()
    imported = "from pytest_torchexport import ExportRefused, OutputsDiffer, Verdict"
    assert loaded_by(imported) == set()


@pytest.mark.parametrize("collect", [True, False])
def test_a_suite_that_does_not_use_the_plugin_does_not_notice_it(tmp_path, collect):
    (tmp_path / "test_unrelated.py").write_text(
        "import unittest, pytest\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_one(n): assert n\n"
        "class TestCase(unittest.TestCase):\n"
        "    def test_two(self): pass\n"
    )
    # The dataclasses of a verdict take as long to make as all else that the plugin loads.
    watched = (*HEAVY, "pytest_torchexport.results.verdict") if collect else HEAVY
    code = COLLECT if collect else COLLECT.replace('"--collect-only", ', "")
    assert loaded_by(code, str(tmp_path), watched=watched, cwd=tmp_path) == set()


def test_the_engine_and_the_clean_process_load_neither_pytest_nor_the_plugin():
    modules = ("engine", *SANDBOX)
    imports = "\n".join(f"import pytest_torchexport.{module}" for module in modules)
    watched = ("pytest", "_pytest", "pytest_torchexport.plugin")
    assert loaded_by(imports, watched=watched) == set()


def test_these_checks_can_fail(tmp_path):
    (tmp_path / "test_numpy.py").write_text("import numpy\ndef test_one(): pass\n")
    assert loaded_by(COLLECT, str(tmp_path), cwd=tmp_path) == {"numpy"}
    assert "numpy" in loaded_by("import numpy")
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        loaded_by("import pytest_torchexport.baseline")


# -- what the folders look like --------------------------------------------------------------------


def test_every_room_says_what_it_is_for():
    rooms = [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    for path in rooms:
        purpose = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert purpose, f"{path.relative_to(PACKAGE)} has no docstring"
        assert purpose.partition("\n\n")[0].endswith("."), purpose


def test_every_docstring_begins_with_a_verb_or_a_noun():
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    riddles = [
        f"{path.relative_to(PACKAGE)}: {text.splitlines()[0]}"
        for path in files().values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, kinds) and (text := ast.get_docstring(node))
        if re.match(r"(What|Whether|Who|Which|Where|How)\b", text)
    ]
    assert riddles == []


def test_no_two_files_have_the_same_name():
    names = Counter(path.stem for path in files().values())
    assert {name for name, count in names.items() if count > 1} == {"__init__"}


def exists(dotted: str) -> bool:
    """Return True if ``pytest_torchexport.a.b`` is a module, or a name in the text of one."""
    place = PACKAGE
    for part in dotted.split(".")[1:]:
        if (place / part).is_dir():
            place /= part
        elif (place / f"{part}.py").is_file():
            place /= f"{part}.py"
        else:
            source = place if place.is_file() else place / "__init__.py"
            return part in re.findall(r"\w+", source.read_text(encoding="utf-8"))
    return True


DOTTED = re.compile(r"\bpytest_torchexport(?:\.[A-Za-z_]\w*)+")
NAMING = [
    *sorted(PACKAGE.rglob("*.py")),
    *sorted(ROOT.glob("*.toml")),
]


@pytest.mark.parametrize("path", NAMING, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_that_is_named_exists(path):
    named = {name.removesuffix(".py") for name in DOTTED.findall(path.read_text(encoding="utf-8"))}
    assert {name for name in named - {ENTRY_POINT_GROUP} if not exists(name)} == set()


# A file of tests is named after a file of the package, except these.
OF_A_WHOLE_ROOM = {"sandbox/test_what_is_imported.py", "torch_private/test_no_other_door.py"}
MIRRORS = [
    (path, path.relative_to(ROOT / "tests" / kind).as_posix())
    for kind in ("unit", "integration")
    for path in sorted((ROOT / "tests" / kind).rglob("test_*.py"))
]


@pytest.mark.parametrize(
    ("path", "mirrored"), MIRRORS, ids=[path.relative_to(ROOT).as_posix() for path, _ in MIRRORS]
)
def test_tests_mirror_the_package_and_begin_with_the_name_of_their_file(path, mirrored):
    if mirrored in OF_A_WHOLE_ROOM:
        return
    tested = mirrored.replace("test_", "")
    assert (PACKAGE / tested).is_file()
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert re.match(rf"{tested}[: ]", docstring)
    named = re.findall(r"[\w/]+\.py", docstring.splitlines()[0])
    assert [name for name in named if not (PACKAGE / name).is_file()] == []


def test_that_check_can_fail():
    assert exists("pytest_torchexport.targets.register_target")
    assert not exists("pytest_torchexport.baseline")
    assert not exists("pytest_torchexport.config.baseline")
    assert not exists("pytest_torchexport.config.names.baseline")


def test_every_exporter_is_in_the_contracts_of_import_linter():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
    (forbidden,) = (
        set(contract["forbidden_modules"])
        for contract in contracts
        if contract["type"] == "forbidden"
        and contract["source_modules"] == ["pytest_torchexport.targets.formats"]
    )
    beside = {path.stem for path in (PACKAGE / "targets").glob("*.py")} - {"__init__"}
    assert forbidden == {f"pytest_torchexport.targets.{name}" for name in beside}
    exporters = {place.partition(":")[0] for place in BUILT_IN.values()}
    assert exporters in [
        set(contract["modules"]) for contract in contracts if contract["type"] == "independence"
    ]


def test_every_exception_to_a_lint_rule_names_files_that_exist():
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    for pattern in rules["lint"]["per-file-ignores"]:
        # {a,b}/x as a/x and b/x: glob does not know braces.
        before, _, rest = pattern.partition("{")
        names, _, after = rest.partition("}")
        for single in [before + name + after for name in names.split(",")]:
            assert any(ROOT.glob(single)), single
