"""Hold that scripts/check-gpu says where CUDA is missing, what failed, and what it did not run."""

from __future__ import annotations

import argparse
import sys
import time

import pytest
import torch


@pytest.fixture
def script(load_script):
    return load_script("check-gpu")


def test_without_cuda_it_says_so_and_ends_with_2(script, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["check-gpu"])
    assert script.main() == 2
    said = "check-gpu: torch.cuda.is_available() is false: nothing was checked\n"
    assert capsys.readouterr() == ("", said)


def test_a_part_without_time_is_not_run_and_said_so(script):
    row = script._run(script.PARTS[0], argparse.Namespace(device="cpu"), time.monotonic())
    assert row.result == "not run: out of time"


CASES = """<testsuites><testsuite>
<testcase name="one"/>{}<testcase name="three"><skipped/></testcase>
</testsuite></testsuites>"""
RED = '<testcase name="two"><failure message="no&#10;more"/></testcase>'


@pytest.mark.parametrize(
    ("code", "xml", "output", "result", "trouble"),
    [
        (0, CASES.format(""), "", "passed", ()),
        (1, CASES.format(RED), "", "FAILED", ("two: no",)),
        (
            2,
            CASES.format(""),
            "!!! out of time after one",
            "passed, not to its end",
            ("out of time after one",),
        ),
        (2, CASES.format(""), "interrupted", "FAILED", ("interrupted",)),
        (None, None, "killed", "FAILED", ("killed",)),
        (4, None, "usage", "FAILED", ("usage",)),
        (5, "<testsuites/>", "no tests ran", "FAILED", ("no tests ran",)),
    ],
)
def test_what_a_part_came_to(script, tmp_path, code, xml, output, result, trouble):
    report = tmp_path / "report.xml"
    if xml is not None:
        report.write_text(xml)
    row = script._row(script.PARTS[0], code, report, output, 1.0)
    assert (row.result, row.trouble) == (result, trouble)
    assert any(line.startswith(f"| {row.name} |") for line in script._table([row], "facts"))
