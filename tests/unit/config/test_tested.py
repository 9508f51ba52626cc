"""config/tested.py: which versions are untested, by the recorded runs."""

from __future__ import annotations

import pytest

from pytest_torchexport.config.tested import Passed, runs, untested

NEWER = {"python": "3.12.1", "torch": "2.15.0", "onnx": "1.23.2", "onnxruntime": "1.32.0"}
OLDER = {"python": "3.11.7", "torch": "2.13.0+cpu", "onnx": "1.18.0", "onnxruntime": "1.22.0"}


BOTH = [Passed(versions=OLDER, on_gpu=False), Passed(versions=NEWER, on_gpu=True)]


@pytest.mark.parametrize(
    "versions", [OLDER, NEWER | {"onnx": "1.20.0"}, {"python": "3.12.1", "torch": "2.15.0+cu130"}]
)
def test_versions_on_which_the_suite_has_passed_need_no_line(versions):
    assert untested(versions, BOTH) == ""


TORCH = "torch 2.13.0 with Python 3.11 (on the CPU), torch 2.15.0 with Python 3.12"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"torch": "2.14.0"}, f"untested: torch 2.14.0 with Python 3.12; tested: {TORCH}"),
        (
            {"onnxruntime": "1.40.0"},
            "untested: onnxruntime 1.40.0; tested: onnxruntime 1.22.0 to 1.32.0",
        ),
        (
            {"torch": "2.14.0", "onnx": "1.9.0"},
            f"untested: torch 2.14.0 with Python 3.12, onnx 1.9.0; tested: {TORCH}, onnx 1.18.0 to 1.23.2",
        ),
    ],
)
def test_a_version_on_which_it_has_not_passed_is_named_beside_those_on_which_it_has(change, line):
    assert untested(NEWER | change, BOTH) == line


@pytest.mark.parametrize("change", [{}, {"python": "3.11.9"}])
def test_items_on_a_gpu_need_a_run_that_had_one(change):
    name = "torch 2.13.0 with Python 3.11"
    line = f"untested: {name} on a GPU; tested: {name} (on the CPU)"
    assert untested(OLDER | change, BOTH, ["cpu", "cuda:1"]) == line
    assert untested(NEWER, BOTH, ["cpu", "cuda:1"]) == ""
    assert untested(OLDER, [], ["cpu"]).endswith("; tested: nothing")


def test_the_shipped_versions_are_tested():
    assert runs()
    for run in runs():
        assert untested(run.versions, runs()) == ""
