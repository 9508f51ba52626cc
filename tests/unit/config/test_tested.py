"""config/tested.py: which versions are untested, by the recorded runs."""

from __future__ import annotations

import pytest

from pytest_torchexport.config.tested import Passed, runs, table, untested

NEWER = {"python": "3.12.1", "torch": "2.15.0", "onnx": "1.23.2", "onnxruntime": "1.32.0"}
OLDER = {"python": "3.11.7", "torch": "2.13.0+cpu", "onnx": "1.18.0", "onnxruntime": "1.22.0"}


BOTH = [Passed(versions=OLDER, on_gpu=False), Passed(versions=NEWER, on_gpu=True)]


@pytest.mark.parametrize(
    "versions",
    [
        OLDER,
        NEWER | {"onnx": "1.20.0"},
        {"python": "3.12.1", "torch": "2.15.0+cu130"},
        NEWER | {"python": "3.11.9"},
    ],
)
def test_a_torch_on_which_the_suite_has_passed_needs_no_line_with_any_python(versions):
    assert untested(versions, BOTH) == ""


TORCH = "torch 2.14.0 (tested: 2.13.0, 2.15.0)"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"torch": "2.14.0"}, f"untested: {TORCH}"),
        ({"onnxruntime": "1.40.0"}, "untested: onnxruntime 1.40.0 (tested: 1.22.0 to 1.32.0)"),
        (
            {"torch": "2.14.0", "onnx": "1.9.0"},
            f"untested: {TORCH}, onnx 1.9.0 (tested: 1.18.0 to 1.23.2)",
        ),
    ],
)
def test_a_version_on_which_it_has_not_passed_is_named_beside_those_on_which_it_has(change, line):
    assert untested(NEWER | change, BOTH) == line


def test_items_on_a_gpu_need_a_run_that_had_one():
    line = "untested: torch 2.13.0 on a GPU (tested: 2.15.0)"
    assert untested(OLDER, BOTH, ["cpu", "cuda:1"]) == line
    assert untested(NEWER, BOTH, ["cpu", "cuda:1"]) == ""
    assert untested({"python": "3.11.7", "torch": "2.13.0"}, []).endswith("(tested: none)")


def test_the_table_has_a_line_for_each_run():
    older, newer = table(BOTH)
    assert (
        older
        == "  tested torch 2.13.0 with Python 3.11 on the CPU, onnx 1.18.0, onnxruntime 1.22.0"
    )
    assert newer.startswith("  tested torch 2.15.0 with Python 3.12 and a GPU, onnx")


def test_the_shipped_versions_are_tested():
    assert runs()
    for run in runs():
        assert untested(run.versions, runs()) == ""
