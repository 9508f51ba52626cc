"""Show what a user sees who has not installed the extra ``[onnx]``: ``tox -e no-onnx`` runs this."""

from __future__ import annotations

import importlib.util

import pytest

from pytest_torchexport import targets
from pytest_torchexport.config import names

INSTALL = "pip install 'pytest-torchexport[onnx]'"
ONNX_TARGETS = ("onnx", "onnx_legacy")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is not None, reason="the extra onnx is installed"
)


@pytest.mark.parametrize("name", ONNX_TARGETS)
def test_an_onnx_target_is_unavailable_with_the_line_that_installs_it(name):
    assert INSTALL in targets.get(name).unavailable("cpu")


@pytest.mark.parametrize("name", sorted(set(names.targets()) - set(ONNX_TARGETS)))
def test_every_other_target_is_available(name):
    assert targets.get(name).unavailable("cpu") is None


def test_its_item_is_skipped_with_that_line(pytester):
    pytester.makepyfile(
        "import pytest, torch\n"
        "@pytest.mark.torchexport('trace', 'onnx')\n"
        "def test_net(): torch.nn.ReLU()(torch.ones(2, 3))\n"
    )
    result = pytester.runpytest_inprocess("-rs", "--torchexport-max-examples=3")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines([f"SKIPPED*unavailable: onnx, *{INSTALL.replace('[', '[[]')}"])
