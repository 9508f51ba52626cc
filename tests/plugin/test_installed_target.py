"""The recipe "add a target": the example of the documentation, installed as another package."""

from __future__ import annotations

import site
import sys
import venv
from pathlib import Path

import pytest

SNIPPETS = Path(__file__).parents[2] / "docs" / "snippets" / "own_target"
ENTRY_POINTS = "[pytest_torchexport.targets]\nfrozen = their_package.frozen:TARGET\n"


@pytest.fixture
def python(tmp_path):
    """An interpreter that has what this one has, and their package.

    Also if it is isolated, as that of the clean process is.
    """
    venv.create(tmp_path / "venv", symlinks=True)
    (packages,) = (tmp_path / "venv").glob("lib/*/site-packages")
    ours = [path for path in sys.path if path in site.getsitepackages()]
    lines = [f"import site; site.addsitedir({path!r})" for path in ours]
    (packages / "ours.pth").write_text("\n".join(lines))
    package = packages / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "frozen.py").write_text((SNIPPETS / "frozen.py").read_text(encoding="utf-8"))
    info = packages / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path / "venv" / "bin" / "python"


def test_a_target_of_another_package_is_judged_with_its_round_trip(pytester, python):
    pytester.makepyfile(test_model=(SNIPPETS / "test_model.py").read_text(encoding="utf-8"))
    result = pytester.run(python, "-m", "pytest", "-p", "no:jaxtyping", "-v", "--hypothesis-seed=1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_classifier?frozen-cpu? PASSED*"])
    result.stdout.no_fnmatch_line("*round trip not checked*")
    result.stdout.no_fnmatch_line("*registered only in this process*")
