"""results/sarif.py: a result per failure, and fingerprints that survive what is no other failure."""

from __future__ import annotations

import dataclasses
import json

import pytest
from sample import HOSTILE, failed, item, run_of

from pytest_torchexport.results import sarif
from pytest_torchexport.results.diagnosis import Diagnosis
from pytest_torchexport.results.source_line import SourceLine


def run(*items, **fields):
    document = json.loads(sarif.render(run_of(*items, **fields)))
    assert document["version"] == "2.1.0"
    return document["runs"][0]


def test_a_line_outside_the_repository_is_that_of_the_test():
    (result,) = run(item("a b/test_é.py::a", failed(where=SourceLine("/usr/lib/x.py", 3, "y"))))[
        "results"
    ]
    physical = result["locations"][0]["physicalLocation"]
    assert physical == {
        "artifactLocation": {"uri": "a%20b/test_%C3%A9.py"},
        "region": {"startLine": 1},
    }
    (result,) = run(item("/elsewhere/t.py::a", reason="boom"))["results"]
    assert "physicalLocation" not in result["locations"][0]


def fingerprint(test="t.py::a", target="trace", **fields):
    (result,) = run(item(test, failed(target, **fields)))["results"]
    (value,) = result["partialFingerprints"].values()
    return value


SAME = fingerprint()


@pytest.mark.parametrize(
    "fields",
    [
        {"line": 99},  # lines moved
        {"reason": "net.py:7  other numbers: 3 of 4"},
        {
            "differences": tuple(
                dataclasses.replace(each, max_abs=7.0, mismatched=2)
                for each in failed().differences
            )
        },
        {"diagnosis": Diagnosis()},  # out of time
        {"seed": 8, "call": "x=float32[3]", "seconds": {"export": 9.0}},
    ],
)
def test_a_failure_that_is_the_same_keeps_its_fingerprint(fields):
    assert fingerprint(**fields) == SAME


@pytest.mark.parametrize(
    "fields",
    [
        {"failure": "OutputsDiffer"},
        {"target": "onnx"},
        {"test": "t.py::b"},
        {"test": "t.py::a[2]"},
        {"subject": "Other"},
        {"where": SourceLine("net.py", 12, "if x.mean() > 0:")},
        {
            "differences": tuple(
                dataclasses.replace(each, path="output[1]") for each in failed().differences
            )
        },
    ],
)
def test_another_failure_has_another_fingerprint(fields):
    assert fingerprint(**fields) != SAME


def test_text_of_others_is_no_link():
    text = sarif.render(
        run_of(
            item(f"t.py::{HOSTILE}", failed(reason=HOSTILE, subject=HOSTILE)),
            item(HOSTILE, reason=HOSTILE),
        )
    )
    (made,) = json.loads(text)["runs"]
    assert len(made["results"]) == 2
    assert all("](" not in result["message"]["text"] for result in made["results"])
    assert "\\u001b" not in text
