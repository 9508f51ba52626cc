"""Build the sdist and the wheel, and hold what they contain."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import pytest_torchexport
from pytest_torchexport.plugin.items import LOWEST_TORCH

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pytest_torchexport"
NAME = f"pytest_torchexport-{pytest_torchexport.__version__}"
# What a packager needs beside the package, to run the tests and to build the documentation.
BESIDE = {"benchmarks", "docs", "examples", "scripts", "tests"}
FILES = {
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "constraints.txt",
    "mkdocs.yml",
    "pyproject.toml",
    "tox.ini",
}
ADDED_BY_HATCHLING = {"PKG-INFO", ".gitignore"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with a sdist and a wheel of this checkout; needs no network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def sources() -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_is_the_package_with_its_types_and_its_licence(built):
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
        metadata = message_from_string(wheel.read(f"{NAME}.dist-info/METADATA").decode())
        entry_points = wheel.read(f"{NAME}.dist-info/entry_points.txt").decode()
    assert {name for name in names if not name.startswith(f"{NAME}.dist-info/")} == sources()
    assert "pytest_torchexport/py.typed" in names
    assert f"{NAME}.dist-info/licenses/LICENSE" in names
    assert metadata["Version"] == pytest_torchexport.__version__
    assert "torchexport = pytest_torchexport.plugin" in entry_points
    assert "pytest-torchexport = pytest_torchexport.__main__:script" in entry_points


def test_the_sdist_has_what_its_tests_and_its_documentation_need(built):
    with tarfile.open(built / f"{NAME}.tar.gz") as sdist:
        names = {member.name.removeprefix(f"{NAME}/") for member in sdist if member.isfile()}
    assert {name for name in names if name.startswith("pytest_torchexport/")} == sources()
    assert {name for name in names if "/" not in name} >= FILES
    assert {name.partition("/")[0] for name in names if "/" in name} == BESIDE | {PACKAGE.name}
    assert {"tests/test_package.py", "docs/index.md", "examples/test_quickstart.py"} <= names
    hidden = {name for name in names if re.search(r"(^|/)(\.|__pycache__)", name)}
    assert hidden <= ADDED_BY_HATCHLING


def test_tox_tests_the_lowest_versions_that_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*map(Requirement, [*project["dependencies"], *extras["torch"], *extras["onnx"]])]
    lowest = {
        one.name: Version(str(one.specifier).removeprefix(">="))
        for one in declared
        if one.name != project["name"]
    }
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^    torch29: ([\w-]+)==(\S+)$", tox, re.MULTILINE))
    assert {name: Version(version) for name, version in pinned.items()} == lowest
    assert lowest["torch"].release == LOWEST_TORCH
    assert project["requires-python"] == ">=3.11"
    assert "py{311-torch29," in tox


def test_what_the_package_imports_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {Requirement(one).name for one in project["dependencies"]}
    optional = {
        Requirement(one).name
        for extra in project["optional-dependencies"].values()
        for one in extra
    }
    imported = {
        name.partition(".")[0].replace("_", "-")
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    } - {name.replace("_", "-") for name in sys.stdlib_module_names}
    # torch's own: a process that has torch has them too. pytest's parts come with it.
    assert imported - {"-pytest", "pluggy", "pytest-torchexport"} <= required | optional
    assert {"torch", "onnx", "sympy"} & required == set()


def test_the_version_stands_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", pytest_torchexport.__version__)
