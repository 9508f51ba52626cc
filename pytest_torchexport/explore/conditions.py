"""Sites: the conditions in the user's source, and what can come out of each.

Plain data, so that reports may read it; separate from the rewriting because a condition of code without
source is a site too, only a coarser one.
"""

from __future__ import annotations

from dataclasses import dataclass

# What a loop did: a count of its own, because a trace unrolls it.
NONE, ONCE, MORE = "0 iterations", "1 iteration", "2+ iterations"

Outcome = bool | str


@dataclass(frozen=True, kw_only=True)
class Site:
    """One condition, as small as it can be: a part of ``a and b`` is a site of its own.

    ``kind`` is the statement it steers (if, while, for, assert, case, except, cond, expression), ``text`` the condition's
    own source, ``statement`` the line it begins on, ``first_line`` that of the statement it is in. ``raises`` are the outcomes after which the code only
    raises: no legal call takes them. ``coarse`` where there was no source to read.
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
        """Whether its outcomes are numbers of iterations."""
        return self.kind == "for"

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Everything that can come out of it."""
        if self.loops:
            return (NONE, ONCE, MORE)
        return tuple(outcome for outcome in (True, False) if outcome not in self.raises)
