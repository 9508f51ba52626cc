"""results/size_pattern.py: the sizes that a rule leaves to an artifact."""

from __future__ import annotations

import pytest

from pytest_torchexport.results.size_pattern import SizePattern


@pytest.mark.parametrize(
    ("pattern", "sizes", "taken"),
    [
        ("fails from 12", range(1, 21), range(1, 12)),
        ("fails from 12", range(1, 2**62), range(1, 12)),
        ("fails from 26", range(2, 61, 4), range(2, 26, 4)),
        ("fails from 6", (2, 5, 7, 9), (2, 5)),
        ("fails up to 3", range(1, 21), range(4, 21)),
        ("fails only 1", range(1, 7), range(2, 7)),
        ("fails only 6", range(1, 7), range(1, 6)),
        ("fails only 3", range(1, 7), ()),
        ("fails between 3 5", range(1, 7), ()),
        ("fails steps 2 1", range(1, 7), ()),
        ("ok only 1", range(1, 7), ()),
        ("ok between 3 5", range(1, 7), ()),
    ],
)
def test_the_sizes_that_are_taken_are_one_end_of_all(pattern, sizes, taken):
    rule = SizePattern.from_text(pattern)
    found = rule.end_of(sizes)
    assert len(found) == len(taken)
    assert list(found) == list(taken)
    assert not any(map(rule.fails_at, found))
