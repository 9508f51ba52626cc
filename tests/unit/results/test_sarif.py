"""results/sarif.py: a result per cause, and fingerprints that survive what is no other failure."""

from __future__ import annotations

import dataclasses
import json

import pytest
from sample import HOSTILE, failed, item, run_of

from pytest_torchexport.results import sarif
from pytest_torchexport.results.diagnosis import Diagnosis
from pytest_torchexport.results.source_line import SourceLine


def result(test, *verdicts, **fields):
    (run,) = json.loads(sarif.render(run_of(item(test, *verdicts, **fields))))["runs"]
    (only,) = run["results"]
    return only


def test_a_line_outside_the_repository_is_that_of_the_test():
    found = result("a b/test_é.py::a", failed(where=SourceLine("/usr/lib/x.py", 3, "y")))
    physical = found["locations"][0]["physicalLocation"]
    assert physical["artifactLocation"] == {"uri": "a%20b/test_%C3%A9.py"}
    assert physical["region"] == {"startLine": 1}
    nowhere = result("/elsewhere/t.py::a", reason="boom")
    assert "physicalLocation" not in nowhere["locations"][0]


def fingerprint(test="t.py::a", target="trace", **fields):
    (value,) = result(test, failed(target, **fields))["partialFingerprints"].values()
    return value


SAME = fingerprint()
(DIFFERS,) = failed().differences


@pytest.mark.parametrize(
    "fields",
    [
        {"line": 99},  # lines moved
        {"reason": "net.py:7  other numbers: 3 of 4", "seed": 8, "call": "x=float32[3]"},
        {"differences": (dataclasses.replace(DIFFERS, max_abs=7.0, mismatched=2),)},
        {"diagnosis": Diagnosis()},  # out of time
    ],
)
def test_a_failure_that_is_the_same_keeps_its_fingerprint(fields):
    assert fingerprint(**fields) == SAME


@pytest.mark.parametrize(
    "fields",
    [
        {"failure": "OutputsDiffer"},
        {"target": "onnx"},
        {"test": "t.py::a[2]"},
        {"subject": "Other"},
        {"where": SourceLine("net.py", 12, "if x.mean() > 0:")},
        {"differences": (dataclasses.replace(DIFFERS, path="output[1]"),)},
    ],
)
def test_another_failure_has_another_fingerprint(fields):
    assert fingerprint(**fields) != SAME


def test_the_items_of_one_cause_are_one_result_whatever_their_order():
    items = [item(f"t.py::{name}", failed(target)) for name in "ab" for target in ("trace", "onnx")]
    (run,) = json.loads(sarif.render(run_of(*items)))["runs"]
    (only,) = run["results"]
    assert only["locations"][0]["physicalLocation"]["artifactLocation"] == {"uri": "net.py"}
    others = [each["logicalLocations"][0] for each in only["relatedLocations"]]
    assert [each["fullyQualifiedName"] for each in others] == [each.nodeid for each in items[1:]]
    (again,) = json.loads(sarif.render(run_of(*items[::-1])))["runs"]
    assert again["results"][0]["partialFingerprints"] == only["partialFingerprints"]


def test_text_of_others_is_no_link():
    hostile = failed(reason=HOSTILE, subject=HOSTILE)
    text = sarif.render(run_of(item(f"t.py::{HOSTILE}", hostile), item(HOSTILE, reason=HOSTILE)))
    (made,) = json.loads(text)["runs"]
    assert len(made["results"]) == 2
    assert all("](" not in result["message"]["text"] for result in made["results"])
    assert "\\u001b" not in text
