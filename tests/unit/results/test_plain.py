"""results/plain.py: what is made plain comes back as it was, and unknown keys do no harm."""

from __future__ import annotations

import json

from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Known, Place, Stage
from pytest_torchexport.results.plain import made, plain
from pytest_torchexport.results.source_line import SourceLine

FULL = Diagnosis(
    owner="translation",
    stages=(Stage(name="ExportedProgram", agrees=True), Stage(name="loaded artifact", agrees=None)),
    place=Place(operator="Gemm", where=SourceLine("net.py", 3, "x @ y"), error=2.5),
    causes=(Cause(kind="frozen size", text="x is 2", details=("a", "b")),),
    known=(Known(issue="https://example.org/1", text="wrong"),),
    not_examined=("stages: no time left",),
)


def test_what_is_made_plain_is_json_and_comes_back():
    for data in (FULL, Diagnosis()):
        assert made(Diagnosis, json.loads(json.dumps(plain(data)))) == data


def test_keys_of_a_later_version_are_left_out():
    later = plain(FULL) | {"mood": "good"}
    later["place"] |= {"color": "red"}
    assert made(Diagnosis, later) == FULL
