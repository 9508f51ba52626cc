"""The sizes of a dim at which a failing call fails, and the words for them."""

from __future__ import annotations

import re
import typing
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

PatternKind = Literal[
    "only",  # one size
    "from",  # a size and all above it
    "up to",  # a size and all below it
    "between",  # two sizes and all between them
    "steps",  # a step and a remainder: 4, 0 are the multiples of 4; 2, 1 the odd sizes
]
# The kinds that have two numbers.
_OF_TWO = ("between", "steps")


@dataclass(frozen=True, kw_only=True)
class SizePattern:
    """A rule that says of each size whether the call fails there.

    ``fails``: it fails at the sizes that the rule names, and at no other; if False, it fails at all
    others. ``numbers`` are those of the kind.
    """

    kind: PatternKind
    numbers: tuple[int, ...]
    fails: bool

    def names(self, size: int) -> bool:
        """Return True if the rule names a size."""
        first, last = self.numbers[0], self.numbers[-1]
        match self.kind:
            case "only":
                return size == first
            case "from":
                return size >= first
            case "up to":
                return size <= last
            case "between":
                return first <= size <= last
            case "steps":
                return size % first == last

    def fails_at(self, size: int) -> bool:
        """Return True if the call fails at a size, by this rule."""
        return self.names(size) == self.fails

    def taken(self, sizes: range | tuple[int, ...]) -> range | tuple[int, ...]:
        """Return those of a dim's legal ``sizes`` at which the call agrees.

        None of them if these are neither in a row nor in equal steps, so that no range has them.
        ``sizes`` are sorted, and may be more than can be walked over.
        """
        first, last = self.numbers[0], self.numbers[-1]
        match self.kind, self.fails:
            case "steps", False if isinstance(sizes, range) and sizes.step == 1:
                return range(sizes[0] + (last - sizes[0]) % first, sizes[-1] + 1, first)
            case "steps", True if first == 2:
                other = SizePattern(kind="steps", numbers=(2, 1 - last), fails=False)
                return other.taken(sizes)
            case "steps", _:
                return ()
            case (("only" | "between"), False):
                return sizes[bisect_left(sizes, first) : bisect_right(sizes, last)]
        if self.kind == "from" or (self.kind == "only" and first == sizes[-1]):
            return sizes[: bisect_left(sizes, first)]
        if self.kind == "up to" or (self.kind == "only" and first == sizes[0]):
            return sizes[bisect_right(sizes, last) :]
        return ()

    def as_text(self) -> str:
        """Return ``fails from 5`` or ``ok only 2``, for a file."""
        numbers = " ".join(map(str, self.numbers))
        return f"{'fails' if self.fails else 'ok'} {self.kind} {numbers}"

    @classmethod
    def from_text(cls, text: str) -> SizePattern:
        """Return the pattern that ``as_text`` wrote. Raises ValueError for another text."""
        match = re.fullmatch(r"(fails|ok) (only|from|up to|between|steps)((?: \d+)+)", text)
        if match is None or (len(match[3].split()) == 2) != (match[2] in _OF_TWO):
            raise ValueError(f"{text!r} is no pattern of sizes, such as 'fails from 5'")
        kind = typing.cast("PatternKind", match[2])
        numbers = tuple(map(int, match[3].split()))
        if kind == "steps" and numbers[0] == 0:
            raise ValueError(f"{text!r} has a step of 0")
        return cls(kind=kind, numbers=numbers, fails=match[1] == "fails")

    def words(self, example: int) -> str:
        """Return ``fails from 5 up``, or ``ok only at 2, the example's``."""
        first, last = self.numbers[0], self.numbers[-1]
        match self.kind:
            case "only":
                where = f"at {first}"
            case "from":
                where = f"from {first} up"
            case "up to":
                where = f"up to {last}"
            case "between":
                where = f"from {first} to {last}"
            case "steps" if first == 2:
                where = f"at {'odd' if last else 'even'} sizes"
            case "steps":
                where = f"at sizes {first}n+{last}" if last else f"at multiples of {first}"
        own = ", the example's" if self.kind == "only" and first == example else ""
        only = " only" if not self.fails or self.kind == "only" else ""
        return f"{'fails' if self.fails else 'ok'}{only} {where}{own}"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of one dim at which a failing call was run: where it fails and where it agrees.

    Other dims keep their sizes. ``pattern`` is a rule that is true of all of them, None if no
    simple one is. ``equal_to``: the call agrees where this other dim has the same size, empty if
    there is none.
    """

    dim: str
    example: int
    ok: tuple[int, ...]
    failing: tuple[int, ...]
    pattern: SizePattern | None = None
    equal_to: str = ""

    def __str__(self) -> str:
        """Return ``batch: fails from 4 up (run at 1 to 8, 16; the example's is 2)``."""
        if self.pattern is None:
            ok, failing = (self._listed(sizes) for sizes in (self.ok, self.failing))
            return f"{self.dim}: ok at {ok}; fails at {failing}"
        words = self.pattern.words(self.example)
        if self.equal_to:
            words = f"ok only where equal to {self.equal_to}"
        run = ", ".join(_runs(sorted((*self.ok, *self.failing))))
        own = "" if "the example's" in words else f"; the example's is {self.example}"
        return f"{self.dim}: {words} (run at {run}{own})"

    def _listed(self, sizes: Sequence[int]) -> str:
        return ", ".join(f"{n} (the example's)" if n == self.example else str(n) for n in sizes)


def _runs(sizes: Sequence[int]) -> Iterator[str]:
    """Yield ``1 to 4``, ``8``: sorted sizes, those in a row as one."""
    start = 0
    for end, size in enumerate(sizes):
        if end + 1 < len(sizes) and sizes[end + 1] == size + 1:
            continue
        first = sizes[start]
        if size - first > 1:
            yield f"{first} to {size}"
        else:
            yield from map(str, sizes[start : end + 1])
        start = end + 1
