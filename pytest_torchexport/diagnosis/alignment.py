"""Align two sequences with the fewest insertions and deletions (Myers, Algorithmica 1, 1986).

Not ``difflib``: it looks for the longest common block, and of networks with equal blocks it may
match the second block of one side with the first of the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

# With more insertions and deletions the two are different programs: only both ends are aligned.
MOST = 600

Pairs = list[tuple[int, int]]


def aligned(
    left: Sequence[Hashable], right: Sequence[Hashable], *, right_is_cut: bool = False
) -> Pairs:
    """Return the pairs of indices at which the two are the same.

    ``right_is_cut``: the right one ends early; what the left one has beyond does not count.
    """
    # Per number of edits: how far the left one was read before, by diagonal (left less right).
    rows: list[dict[int, int]] = []
    reached = {1: 0}
    for edits in range(MOST + 1):
        rows.append(dict(reached))
        ended: list[tuple[int, int]] = []
        for diagonal in range(-edits, edits + 1, 2):
            x, _ = _after_an_edit(reached, diagonal, edits)
            y = x - diagonal
            while x < len(left) and y < len(right) and left[x] == right[y]:
                x, y = x + 1, y + 1
            reached[diagonal] = x
            if y >= len(right) and (right_is_cut or x >= len(left)):
                ended.append((x, y))
        if ended:
            return _walked_back(rows, *max(ended))  # with the most pairs
    return _ends(left, right, right_is_cut=right_is_cut)


def _after_an_edit(reached: dict[int, int], diagonal: int, edits: int) -> tuple[int, int]:
    """Return how far the left one is read after an edit that ends on a diagonal.

    Beside it the diagonal from which the edit came.
    """
    inserted = diagonal == -edits or (
        diagonal != edits and reached[diagonal - 1] < reached[diagonal + 1]
    )
    before = diagonal + 1 if inserted else diagonal - 1
    return reached[before] + (not inserted), before


def _walked_back(rows: Sequence[dict[int, int]], x: int, y: int) -> Pairs:
    pairs = []
    for edits in range(len(rows) - 1, -1, -1):
        start, before = _after_an_edit(rows[edits], x - y, edits)
        while x > start:
            x, y = x - 1, y - 1
            pairs.append((x, y))
        x = rows[edits][before]
        y = x - before
    return pairs[::-1]


def _ends(left: Sequence[Hashable], right: Sequence[Hashable], *, right_is_cut: bool) -> Pairs:
    """Return the pairs of the common beginning and, unless one is cut, of the common end."""
    begin = _common(left, right)
    rest = min(len(left), len(right)) - begin
    end = 0 if right_is_cut else min(_common(left[::-1], right[::-1]), rest)
    at_the_end = ((len(left) - back, len(right) - back) for back in range(end, 0, -1))
    return [*((index, index) for index in range(begin)), *at_the_end]


def _common(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    short = min(len(left), len(right))
    return next((number for number, (one, other) in pairs if one != other), short)
