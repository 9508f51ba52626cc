"""results/verdict.py: names, sizes and shares in words; each verdict of a run once, and items without one."""

from __future__ import annotations

import pytest
from sample import failed, item, recorded, verdict

from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import (
    ArtifactSize,
    Branch,
    bytes_text,
    entries,
    without_variant,
)


def test_sizes_in_words():
    size = ArtifactSize(files=10 * 2**20, weights=2**20)
    assert str(size) == "10 MiB, 10 times the weights (1 MiB)"
    assert str(ArtifactSize(files=300, weights=0)) == "300 bytes, no weights"
    numbers = (1023, 999.7 * 2**10, -(2**20), 5 * 2**42)
    assert [bytes_text(n) for n in numbers] == ["1023 bytes", "0.976 MiB", "-1 MiB", "20,480 GiB"]


def branch(kind="if", **status):
    where = SourceLine("net.py", 3)
    return Branch(
        where=where, statement="", text="", module="", kind=kind, counts={}, status=status
    )


@pytest.mark.parametrize(
    ("branches", "share"),
    [
        ([branch(True_="verified", False_="unreached")], 50.0),
        ([branch(True_="unreached", False_="raises")], 0.0),
        ([branch(True_="constant", False_="constant")], None),
        ([branch("for", none="unreached", more="verified")], None),
        ([branch(a="verified", b="unreached"), branch(a="verified", b="diverges")], 75.0),
    ],
)
def test_branch_coverage_is_the_share_of_outcomes_that_inputs_steer_to(branches, share):
    assert verdict(branches=tuple(branches)).branch_coverage == share


# -- a run's results one by one --------------------------------------------------------------------


def outcomes(*items):
    return [(str(entry), entry.outcome) for entry in entries(items)]


def test_one_of_several_verdicts_has_its_own_outcome():
    both = (verdict(recorded=recorded(1)), failed(recorded=recorded(2)))
    first, second = "a[trace-cpu] Net (1st of 2)", "a[trace-cpu] Net (2nd of 2)"
    assert outcomes(item("a", *both, outcome="failed")) == [(first, "passed"), (second, "failed")]
    for expected in ("xfailed", "passed"):  # by a marker, or by the test itself
        assert outcomes(item("a", *both, outcome=expected))[1] == (second, expected)


def test_an_item_that_fails_beside_its_verdicts_is_an_entry_of_its_own():
    both = (verdict(recorded=recorded(1)), verdict(recorded=recorded(2)))
    assert outcomes(item("a", *both, outcome="failed"))[2:] == [("a[trace-cpu]", "failed")]
    assert outcomes(item("a", verdict(), outcome="failed")) == [("a[trace-cpu]", "failed")]


@pytest.mark.parametrize(
    ("nodeid", "test"),
    [
        ("a.py::test[onnx-cuda1]", "a.py::test"),
        ("a.py::test[onnx-cuda1-x-2]", "a.py::test[x-2]"),
        ("a.py::test[x-onnx-cuda1]", "a.py::test[x]"),
        ("a.py::TestIt::test", "a.py::TestIt::test"),
    ],
)
def test_a_test_is_named_without_target_and_device(nodeid, test):
    assert without_variant(nodeid, "onnx-cuda:1") == test
