"""Conditions in the user's source, and the outcomes that each can have.

Plain data, so that reports can read it. Separate from the rewriting, because a condition in code
without source is a condition too, only known less precisely.
"""

from __future__ import annotations

from dataclasses import dataclass

# The outcomes of a loop: how often it ran. They count because a trace unrolls the loop.
NONE, ONCE, MORE = "0 iterations", "1 iteration", "2+ iterations"

ConditionOutcome = bool | str

# A file name, and a number that is unique among the conditions of that file.
ConditionId = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition, as small as possible: each part of ``a and b`` is a condition of its own.

    ``kind`` is the statement that it decides: if, while, for, assert, case, except, cond or
    expression. ``text`` is the condition's own source, and ``statement`` is the line on which it
    begins. ``first_line`` is the line on which the whole statement begins. After an outcome in
    ``raises`` the code only raises, so that no legal call takes it. ``coarse`` is True if the code
    is not rewritten: it has no source, or is torch.nn's.
    """

    file: str
    first_line: int
    line: int
    end_line: int
    kind: str
    text: str
    statement: str
    function: str
    raises: frozenset[bool] = frozenset()
    coarse: bool = False

    @property
    def loops(self) -> bool:
        """Return True if the outcomes are numbers of iterations."""
        return self.kind == "for"

    @property
    def outcomes(self) -> tuple[ConditionOutcome, ...]:
        """Return every outcome that a legal call may take."""
        if self.loops:
            return (NONE, ONCE, MORE)
        return tuple(outcome for outcome in (True, False) if outcome not in self.raises)
