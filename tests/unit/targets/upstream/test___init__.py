"""targets/upstream/__init__.py: every row is whole, and fits if all of its evidence is there."""

from __future__ import annotations

import datetime as dt
import re
import string
from dataclasses import replace

import pytest

from pytest_torchexport.config.names import BUILT_IN
from pytest_torchexport.targets.formats.load_errors import remedy_of
from pytest_torchexport.targets.upstream import Evidence, Row, first, rows

TABLES = ("refusals", "load_errors", "known_defects")
ALL = [
    pytest.param(row, id=f"{table}-{number}")
    for table in TABLES
    for number, row in enumerate(rows(table), start=1)
]
# What the reader of a table gives its texts, beside what the patterns find.
GIVEN = {"here", "place", "step"}
ISSUE = re.compile(r"https://github\.com/[\w-]+/[\w-]+/(?:issues|pull)/\d+")


@pytest.mark.parametrize("row", ALL)
def test_a_row_is_whole_and_every_pattern_finds_what_its_texts_name(row):
    assert isinstance(row.date, dt.date)
    assert row.versions
    assert row.example
    assert row.remedy
    assert not row.cause.endswith(".")
    assert set(row.targets) <= set(BUILT_IN)
    assert not row.issue or ISSUE.fullmatch(row.issue)
    texts = (row.cause, row.remedy)
    named = {name for text in texts for _, name, _, _ in string.Formatter().parse(text)}
    for pattern in row.said:
        groups = {*re.compile(pattern).groupindex, *re.compile(row.line).groupindex}
        assert named - {None} <= groups | GIVEN, pattern


@pytest.mark.parametrize("row", rows("load_errors"), ids=lambda row: row.finds)
def test_an_example_of_a_load_error_is_its_own(row):
    name, _, text = row.example.partition(": ")
    found = first("load_errors", Evidence(said=[(name, row.example)]))
    assert found is not None
    assert found[0] is row
    assert found[1]["name"] == row.finds
    cause, remedy, *_ = remedy_of(name, text).lines
    assert row.finds in cause
    assert remedy.startswith("remedy: ")


ROW = Row(
    cause="the {thing} at {number} is {here}",
    remedy="another {thing}",
    example="",
    date=dt.date(2026, 1, 2),
    versions=("torch 2.13.0",),
    targets=("onnx",),
    operators=("add", "sub"),
    said=("no (?P<thing>this)", "no (?P<thing>that)"),
    raised="^Error$",
    line=r"(?P<number>\d)",
    frame=r"/rnn\.py:forward",
    owner="translation",
    fixed_in="onnxscript 0.8",
)
SEEN = Evidence(
    target="onnx",
    said=(("Other", "no this"), ("Error", "there is\nno that")),
    line="y = x[3]",
    frames="/torch/nn/rnn.py:forward",
    owner="translation",
    operators=("mul", "add"),
    names={"here": "x"},
)


@pytest.mark.parametrize("evidence", [SEEN, replace(SEEN, owner=None)])
def test_a_row_fits_if_all_of_its_evidence_is_there(evidence):
    assert ROW.found(evidence) == {"here": "x", "thing": "that", "number": "3"}


@pytest.mark.parametrize(
    "changed",
    [
        {"target": "export"},
        {"operators": ("mul",)},
        {"said": (("Other", "no that"),)},
        {"said": (("Error", "no other"),)},
        {"line": "y = x"},
        {"line": ""},
        {"frames": ""},
        {"owner": "runtime"},
    ],
)
def test_other_evidence_rules_it_out(changed):
    assert ROW.found(replace(SEEN, **changed)) is None


@pytest.mark.parametrize(
    ("installed", "fixed"),
    [
        ({"onnxscript": "0.10.1+cpu"}, True),
        ({"onnxscript": "0.7.9"}, False),
        ({"torch": "2.13.0"}, False),
    ],
)
def test_a_defect_is_fixed_from_a_version_on(installed, fixed):
    assert ROW.is_fixed(installed) == fixed
    assert not replace(ROW, fixed_in="").is_fixed(installed)
