"""diagnosis/known_defect.py: what is known of a failure rules defects out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_torchexport.diagnosis.known_defect import possible
from pytest_torchexport.diagnosis.known_defects import DEFECTS
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Place
from pytest_torchexport.results.source_line import SourceLine

ROW = replace(
    DEFECTS[0],
    operators=("logaddexp",),
    places=("ReduceMax",),
    line="",
    targets=("onnx",),
    owner="translation",
    fixed_in="onnxscript 0.8",
)
INSTALLED = {"onnxscript": "0.7.2"}


def rows(known=None, target="onnx", installed=INSTALLED):
    return possible([ROW], target, known or Diagnosis(), installed)


@pytest.mark.parametrize(
    "known",
    [
        Diagnosis(),
        Diagnosis(owner="translation"),
        Diagnosis(place=Place(operator="aten.logaddexp")),
        Diagnosis(place=Place(operator="ReduceMax"), owner="translation"),
    ],
)
def test_a_defect_that_fits_is_possible(known):
    assert rows(known) == [ROW]


@pytest.mark.parametrize(
    "known",
    [
        Diagnosis(owner="runtime"),
        Diagnosis(owner="model"),
        Diagnosis(place=Place(operator="aten.logaddexp2")),
        Diagnosis(place=Place(operator="aten.logaddexp"), owner="capture"),
    ],
)
def test_another_owner_or_operator_rules_it_out(known):
    assert rows(known) == []


def test_another_target_or_a_version_without_it_rules_it_out():
    assert rows(target="onnx_legacy") == []
    assert rows(installed={"onnxscript": "0.8.0"}) == []


def test_a_line_that_is_evidence_has_to_match():
    row = replace(ROW, line=r"\*\*")

    def fits(text):
        where = SourceLine("net.py", 3, text)
        by_place = Diagnosis(place=Place(operator="aten.logaddexp", where=where))
        by_cause = Diagnosis(causes=(Cause(kind="guard", text="", where=where),))
        assert row.fits(by_place) == row.fits(by_cause)
        return row.fits(by_place)

    assert fits("return x * n ** 2")
    assert not fits("return x * n")
    assert not row.fits(Diagnosis())
