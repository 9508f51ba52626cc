"""diagnosis/alignment.py: the fewest insertions and deletions, and both ends if there are many."""

from __future__ import annotations

import itertools
import random

import pytest

from pytest_torchexport.diagnosis import alignment
from pytest_torchexport.diagnosis.alignment import aligned


@pytest.mark.parametrize(
    ("left", "right", "pairs"),
    [
        ("abc", "abc", [(0, 0), (1, 1), (2, 2)]),
        ("abc", "axc", [(0, 0), (2, 2)]),
        ("abc", "ac", [(0, 0), (2, 1)]),
        ("ac", "abc", [(0, 0), (1, 2)]),
        ("", "ab", []),
        ("ab", "", []),
    ],
)
def test_what_both_have_is_paired(left, right, pairs):
    assert aligned(left, right) == pairs


def test_of_equal_blocks_each_is_paired_with_its_own():
    """difflib matches the second block of the left one with the first of the right one."""
    assert aligned("abcabcabc", "ababcabc") == [
        *((0, 0), (1, 1)),
        *((3, 2), (4, 3), (5, 4), (6, 5), (7, 6), (8, 7)),
    ]


def test_what_comes_after_the_end_of_a_cut_side_is_no_difference():
    assert aligned("abcabcd", "abx", right_is_cut=True) == [(0, 0), (1, 1)]
    assert aligned("abc", "", right_is_cut=True) == []


def test_the_end_of_a_cut_side_is_paired_if_it_can_be():
    """It is the operator that raised, and eager without one that the artifact has folded."""
    assert aligned("zcd", "c", right_is_cut=True) == [(1, 0)]


def longest(left, right):
    rows = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            rows[i + 1][j + 1] = (
                rows[i][j] + 1 if one == other else max(rows[i][j + 1], rows[i + 1][j])
            )
    return rows[-1][-1]


def test_no_alignment_has_more_pairs():
    draw = random.Random(0)
    for _ in range(300):
        left, right = ("".join(draw.choices("abc", k=draw.randrange(9))) for _ in range(2))
        pairs = aligned(left, right)
        assert [left[i] for i, _ in pairs] == [right[j] for _, j in pairs]
        assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(pairs))
        assert len(pairs) == longest(left, right), (left, right)


def test_of_two_programs_that_differ_too_much_both_ends_are_paired(monkeypatch):
    monkeypatch.setattr(alignment, "MOST", 2)
    assert aligned("ab123cd", "ab4567cd") == [(0, 0), (1, 1), (5, 6), (6, 7)]
    assert aligned("ab123cd", "ab4567", right_is_cut=True) == [(0, 0), (1, 1)]
    assert aligned("aaa", "aaaaaaaa") == [(0, 0), (1, 1), (2, 2)]
