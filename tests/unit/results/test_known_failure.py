"""results/known_failure.py: what identifies a known failure, and when it is expected."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pytest_torchexport.results.known_failure import (
    FailurePlace,
    KnownFailure,
    KnownMatch,
    Severity,
    holds,
)
from pytest_torchexport.results.plain import made, plain

ENTRY = KnownFailure(
    test="test_it.py::test_net[1]",
    target="onnx",
    device="cpu",
    subject="Net",
    failure="OutputsDiffer",
    reason="upstream",
    place=FailurePlace(outputs=("output['a']",), operator="aten.view"),
    severity=Severity(sizes={"batch": "fails from 5"}, error=3e4, stage="translation"),
    when=("torch < 2.15",),
)


def test_a_match_survives_the_trip_through_xdist():
    match = KnownMatch(status="moved", now=ENTRY, known=ENTRY, file="a.toml:4", changes=("one",))
    assert made(KnownMatch, json.loads(json.dumps(plain(match)))) == match


def test_reasons_dates_and_severity_do_not_identify_a_failure():
    other = dataclasses.replace(ENTRY, reason="b", since="2030-01-01", severity=Severity(), when=())
    assert other.identity == ENTRY.identity
    assert dataclasses.replace(ENTRY, place=FailurePlace()).identity != ENTRY.identity


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("torch < 2.15", True),
        ("torch >= 2.9, < 2.13", False),
        ("torch == 2.13.0", True),
        ("onnxruntime >= 1.0", True),
        ("no-such-package >= 1.0", False),
        ("python < 3.11", False),
        ("torch >= 2; python_version < '3'", False),
    ],
)
def test_a_requirement_is_true_of_the_installed_versions(requirement, expected):
    versions = {"torch": "2.13.0+cpu", "onnxruntime": "1.31.1", "python": "3.11.7"}
    assert holds(requirement, versions) is expected


def test_what_is_no_requirement_is_an_error():
    with pytest.raises(ValueError, match="'newer than 2' is no requirement"):
        holds("newer than 2", {})
