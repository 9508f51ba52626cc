"""sandbox/answers.py: answers are read with distrust."""

from __future__ import annotations

import pytest

from pytest_torchexport.outcomes.errors import printable
from pytest_torchexport.sandbox import answers, wire


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("load", []),
        ("load", {}),
        ("load", {"found": [], "confined": True}),
        ("load", {"raised": "text"}),
        ("load", {"raised": ["one", "two", "three"]}),
        ("load", {"raised": ["one", "two", ["net.py", "3", "x"]]}),
        ("run", {"crashed": 3}),
        ("run", {"returned": 1, "state": {}, "there": 3}),
        ("run", {"returned": 1, "state": {"weight": 3}}),
        ("run", {"returned": 1, "state": {}, "inputs": [[], {1: 2}]}),
    ],
)
def test_what_is_no_answer_is_told(asked, said):
    with pytest.raises(wire.Malformed):
        answers.read(said, asked)


def test_what_an_artifact_says_cannot_steer_a_terminal():
    said = "\x1b[2J\x1b[1;1Hall\ttests\rpassed\r\n\u202eümlaut ✓\x00\x9b1m"
    assert printable(said) == (
        "<U+001B>[2J<U+001B>[1;1Hall\ttests\npassed\n<U+202E>ümlaut ✓<U+0000><U+009B>1m"
    )
    raised = answers.read({"raised": [said, said, [said, 3, said]]}, "run").raised
    assert "\x1b" not in f"{raised}{raised.where}"
