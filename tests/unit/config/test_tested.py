"""config/tested.py: which versions are untested, by the recorded runs."""

from __future__ import annotations

import pytest

from pytest_torchexport.config.tested import Run, runs, untested

NEWER = {"python": "3.12.1", "torch": "2.15.0", "onnx": "1.23.2", "onnxruntime": "1.32.0"}
OLDER = {"python": "3.11.7", "torch": "2.13.0+cpu", "onnx": "1.18.0", "onnxruntime": "1.22.0"}


def run_on(versions, tests=None, left_out=()):
    return Run(
        date="2026-11-22",
        versions=versions,
        tests=tests or {"passed": 3000},
        again=0,
        verdicts=800,
        zoo={},
        left_out=left_out,
    )


BOTH = [run_on(OLDER), run_on(NEWER)]


@pytest.mark.parametrize(
    "versions",
    [
        OLDER,
        NEWER,
        OLDER | {"torch": "2.13.0", "python": "3.11.2"},
        NEWER | {"onnx": "1.20.0"},
        {"python": "3.12.1", "torch": "2.15.0+cu130"},
    ],
)
def test_versions_on_which_the_suite_has_passed_need_no_line(versions):
    assert untested(versions, BOTH) == ""


TORCH = "torch 2.13.0 with Python 3.11, torch 2.15.0 with Python 3.12"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"torch": "2.14.0"}, f"untested: torch 2.14.0 with Python 3.12; tested: {TORCH}"),
        ({"python": "3.11.7"}, f"untested: torch 2.15.0 with Python 3.11; tested: {TORCH}"),
        (
            {"onnxruntime": "1.40.0"},
            "untested: onnxruntime 1.40.0; tested: onnxruntime 1.22.0 to 1.32.0",
        ),
        ({"numpy": "2.5.5"}, "untested: numpy 2.5.5; tested: nothing"),
        (
            {"torch": "2.14.0", "onnx": "1.9.0"},
            f"untested: torch 2.14.0 with Python 3.12, onnx 1.9.0; tested: {TORCH}, onnx 1.18.0 to 1.23.2",
        ),
    ],
)
def test_a_version_on_which_it_has_not_passed_is_named_beside_those_on_which_it_has(change, line):
    assert untested(NEWER | change, BOTH) == line


def test_a_run_that_failed_or_left_out_files_has_tested_nothing():
    line = (
        "untested: torch 2.13.0 with Python 3.11, onnx 1.18.0, onnxruntime 1.22.0; tested: nothing"
    )
    assert untested(OLDER, []) == line
    assert untested(OLDER, [run_on(OLDER, tests={"passed": 2999, "failed": 1})]) == line
    assert untested(OLDER, [run_on(OLDER, left_out=["tests/test_zoo.py"])]) == line


GPU = ["tests/gpu/test_contract.py", "tests/gpu/test_zoo.py"]
REAL = ["examples/test_bert.py", "tests/real/test_real_models.py"]


@pytest.mark.parametrize("left_out", [GPU, REAL, GPU + REAL])
def test_a_run_without_a_gpu_and_real_models_has_tested_its_versions_on_the_cpu(left_out):
    assert untested(OLDER, [run_on(OLDER, left_out=left_out)], ["cpu"]) == ""


@pytest.mark.parametrize(
    ("left_out", "extent"),
    [
        (GPU, " (on the CPU)"),
        (REAL, " (without real models)"),
        (GPU + REAL, " (on the CPU, without real models)"),
    ],
)
def test_the_line_says_how_far_a_version_is_tested(left_out, extent):
    line = untested(OLDER | {"torch": "2.14.0"}, [run_on(OLDER, left_out=left_out)])
    assert line.endswith(f"; tested: torch 2.13.0 with Python 3.11{extent}")


def test_items_on_a_gpu_need_a_run_that_had_one():
    on_cpu, on_both = run_on(OLDER, left_out=GPU), run_on(OLDER)
    name = "torch 2.13.0 with Python 3.11"
    line = f"untested: {name} on a GPU; tested: {name} (on the CPU)"
    assert untested(OLDER, [on_cpu], ["cpu", "cuda:1"]) == line
    assert untested(OLDER, [on_both], ["cpu", "cuda:1"]) == ""


PASSED = [run for run in runs() if not run.tests.get("failed")]


@pytest.mark.parametrize("run", PASSED, ids=[run.name for run in PASSED])
def test_the_versions_of_a_recorded_run_without_a_failure_are_tested_on_the_cpu(run):
    """A run of the whole suite leaves out what its machine has not: that does not undo the rest."""
    assert untested(run.versions, runs()) == ""


def test_the_recorded_runs_are_in_the_order_of_their_versions_and_no_two_are_on_the_same():
    keys = [run.key for run in runs()]
    assert keys == sorted(set(keys))
