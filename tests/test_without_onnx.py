"""Show what a user sees who has not installed the extra ``[onnx]``.

Where it is installed, a run of pytest that cannot find it has these tests, and others that need no ONNX.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from slow import EVERYTHING

from pytest_torchexport import targets
from pytest_torchexport.config import names

INSTALL = "pip install 'pytest-torchexport[onnx]'"
ONNX_TARGETS = ("onnx", "onnx_legacy")
TESTS = Path(__file__).parent
HERE = importlib.util.find_spec("onnxruntime") is not None
where_it_is_missing = pytest.mark.skipif(HERE, reason="the extra onnx is installed")


@pytest.mark.skipif(not HERE, reason="the extra onnx is not installed: these tests run as they are")
def test_the_other_tests_pass_where_it_cannot_be_found() -> None:
    files = [__file__, *([TESTS / "targets"] if EVERYTHING else [])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "without_onnx", *files],
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the extra onnx is installed" not in done.stdout


@where_it_is_missing
@pytest.mark.parametrize("name", ONNX_TARGETS)
def test_an_onnx_target_is_unavailable_with_the_line_that_installs_it(name):
    assert INSTALL in targets.get(name).unavailable("cpu")


# They need a package, or a compiler.
FURTHER = ("openvino", "openvino_trace", "aoti", "executorch")


@where_it_is_missing
@pytest.mark.parametrize(
    "name",
    sorted(set(names.targets()) - {*ONNX_TARGETS, *FURTHER}),
)
def test_every_other_target_is_available(name):
    assert targets.get(name).unavailable("cpu") is None


@where_it_is_missing
def test_its_item_is_skipped_with_that_line(pytester):
    pytester.makepyfile(
        "import pytest, torch\n"
        "@pytest.mark.torchexport('trace', 'onnx')\n"
        "def test_net(): torch.nn.ReLU()(torch.ones(2, 3))\n"
    )
    result = pytester.runpytest_inprocess("-rs", "--torchexport-max-examples=3")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines([f"SKIPPED*unavailable: onnx, *{INSTALL.replace('[', '[[]')}"])
