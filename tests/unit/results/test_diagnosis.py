"""results/diagnosis.py: the sizes at which a call agrees by a rule."""

from __future__ import annotations

import re

import pytest

from pytest_torchexport.results.diagnosis import SizePattern


@pytest.mark.parametrize(
    ("pattern", "sizes", "taken"),
    [
        ("fails from 12", range(1, 2**62), range(1, 12)),
        ("fails from 6", (2, 5, 7, 9), (2, 5)),
        ("fails up to 3", range(1, 21), range(4, 21)),
        ("fails only 6", range(1, 7), range(1, 6)),
        ("fails only 3", range(1, 7), ()),
        ("fails steps 2 0", range(2, 2**62), range(3, 2**62, 2)),
        ("fails steps 3 1", range(1, 7), ()),
        ("ok steps 3 1", range(4, 21), range(4, 21, 3)),
        ("ok steps 4 0", (2, 4, 7), ()),
        ("ok only 3", range(1, 7), range(3, 4)),
        ("ok between 3 9", (2, 5, 7, 11), (5, 7)),
    ],
)
def test_the_sizes_at_which_a_call_agrees(pattern, sizes, taken):
    how, kind, numbers = re.fullmatch(r"(fails|ok) ([a-z ]+?) ([\d ]+)", pattern).groups()
    numbers = tuple(map(int, numbers.split()))
    rule = SizePattern(kind=kind, numbers=numbers, fails=how == "fails")
    assert rule.taken(sizes) == taken
    assert not any(map(rule.fails_at, taken[:99]))
