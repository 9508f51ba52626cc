"""The diagnosis of a failure as plain data: owner, place, causes and remedies, known defects.

Separate from the verdict, which is what happened: this is what was found out about it afterwards.
Everything that is not known is absent; nothing here is a guess.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Literal

from pytest_torchexport.results.source_line import SourceLine

Owner = Literal[
    "model",  # its own code is what the target cannot express, or asks whether it is exported
    "capture",  # torch.jit.trace, torch.jit.script or torch.export
    "translation",  # from the ExportedProgram to ONNX, or by Inductor to C++
    "exporter's optimizer",
    "runtime's optimizer",
    "runtime",
    "saving and loading",
    "after_export",  # a function of the test that changed the file
    "file",  # that somebody else made
    "device",
]

CauseKind = Literal[
    "attention fast path",
    "frozen size",
    "frozen branch",
    "baked value",
    "one tensor twice",
    "memory layout",
    "calibration",
    "overflow",
    "unrolled loop",
    "dropped mutation",
    "replaced buffer",
    "changed by the export",
    "own seed",
    "active dropout",
    "number as a tensor",
    "guard",
    "unsupported operator",
    "export-only branch",
    "mode-dependent operator",
    "exporter's optimizer",
    "runtime's optimizer",
    "after_export",
    "non-deterministic kernel",
    "missing import",
    "fatal operator",
    "endless loop",
    "step",  # of a pipeline, which a wrapper does otherwise than its reference
    # of a refusal
    "data-dependent value",
    "missing annotation",
    "unsupported construct",
    "unsupported type",
]

PatternKind = Literal[
    "only",  # one size
    "from",  # a size and all above it
    "up to",  # a size and all below it
    "between",  # two sizes and all between them
    "steps",  # a step and a remainder: 4, 0 are the multiples of 4; 2, 1 the odd sizes
]


@dataclass(frozen=True, kw_only=True)
class SizePattern:
    """A rule that says of each size whether the call fails there.

    ``fails``: it fails at the sizes that the rule names, and at no other; if False, it fails at all
    others. ``numbers`` are those of the kind.
    """

    kind: PatternKind
    numbers: tuple[int, ...]
    fails: bool

    @property
    def _ends(self) -> tuple[float, float]:
        """The lowest and the highest size that the rule names, if these are all in a row."""
        low = -math.inf if self.kind == "up to" else self.numbers[0]
        return low, math.inf if self.kind == "from" else self.numbers[-1]

    def names(self, size: int) -> bool:
        if self.kind == "steps":
            step, remainder = self.numbers
            return size % step == remainder
        low, high = self._ends
        return low <= size <= high

    def fails_at(self, size: int) -> bool:
        return self.names(size) == self.fails

    def taken(self, sizes: range | tuple[int, ...]) -> range | tuple[int, ...]:
        """Return those of a dim's legal ``sizes`` at which the call agrees.

        None of them if these are neither in a row nor in equal steps, so that no range has them.
        ``sizes`` are sorted, and may be more than can be walked over.
        """
        if self.kind == "steps":
            step, remainder = self.numbers
            if self.fails:
                remainder = 1 - remainder  # the other half of the sizes, if the step is 2
            if (self.fails and step > 2) or not isinstance(sizes, range) or sizes.step > 1:
                return ()
            return range(sizes[0] + (remainder - sizes[0]) % step, sizes[-1] + 1, step)
        low, high = self._ends
        first, behind = bisect_left(sizes, low), bisect_right(sizes, high)
        if not self.fails:
            return sizes[first:behind]
        below, above = sizes[:first], sizes[behind:]
        return () if below and above else below or above

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
            ok, failing = (
                ", ".join(f"{n} (the example's)" if n == self.example else str(n) for n in sizes)
                for sizes in (self.ok, self.failing)
            )
            return f"{self.dim}: ok at {ok}; fails at {failing}"
        words = self.pattern.words(self.example)
        if self.equal_to:
            words = f"ok only where equal to {self.equal_to}"
        run = []  # sizes in a row are one text: 1 to 4, 8
        sizes = enumerate(sorted((*self.ok, *self.failing)))
        for _, numbered in itertools.groupby(sizes, key=lambda pair: pair[1] - pair[0]):
            row = [size for _, size in numbered]
            run.append(f"{row[0]} to {row[-1]}" if len(row) > 2 else ", ".join(map(str, row)))
        own = "" if "the example's" in words else f"; the example's is {self.example}"
        return f"{self.dim}: {words} (run at {', '.join(run)}{own})"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage between eager and the artifact, and whether it agrees with eager on the call.

    ``agrees`` is None if it could not be run; ``why`` says why not.
    """

    name: str
    agrees: bool | None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The operator that introduces the difference.

    ``operator``: ``aten.view`` or ``Gemm``. ``module``: the path and class of the submodule that
    runs it, empty for the module itself. ``where``: the user's line. ``error``: the difference that
    it introduces, in units of eager's own error there; None if it was not measured.
    """

    operator: str
    module: str = ""
    where: SourceLine | None = None
    error: float | None = None

    def __str__(self) -> str:
        """Return ``aten.view in head.pool (AdaptiveAvgPool2d)``."""
        return f"{self.operator} in {self.module}" if self.module else self.operator


@dataclass(frozen=True, kw_only=True)
class Structural:
    """A difference between what eager ran on the call and what the artifact ran.

    ``constant``: an argument of an operator is another number, or is stored where eager computes
    it. ``stored``: the artifact uses another parameter, buffer or stored tensor than eager.
    ``missing``, ``extra``, ``other``: operators of one side that the other has not, or has others
    for. ``same``: none; an operator of both gives other numbers on equal operands.
    ``eager`` and ``artifact`` are the two sides as texts; ``argument`` is the operator's argument
    and ``numbers`` the two numbers, if it is one. ``where``: the user's line. ``draws``: the
    operator draws random numbers.
    """

    kind: Literal["constant", "stored", "missing", "extra", "other", "same"]
    operator: str
    eager: str = ""
    artifact: str = ""
    argument: str = ""
    numbers: tuple[float, ...] = ()
    where: SourceLine | None = None
    draws: bool = False


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Something without which eager and the artifact agree, or that the artifact shows itself.

    ``text`` is one sentence. ``remedy`` is the change to make, with the line to write if there is
    one. ``details`` are further lines. ``where``: the user's line, None if there is none.
    """

    kind: CauseKind
    text: str
    remedy: str = ""
    details: tuple[str, ...] = ()
    where: SourceLine | None = None


@dataclass(frozen=True, kw_only=True)
class Known:
    """A defect that is known upstream.

    ``issue`` is its address, empty if no public one was found; ``fixed_in``: the first version
    without it, empty if there is none. ``remedy`` is what to write instead.
    """

    issue: str
    text: str
    fixed_in: str = ""
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything that was found out about a failure.

    ``owner`` is None, and ``place`` and ``structural`` too, if it is not known. ``stages`` are
    those that were run, in their order. ``sizes``: each dim of which some sizes fail and others do
    not. ``not_examined``: what was left out because the time for a diagnosis was over, or because
    the examination itself raised.
    """

    owner: Owner | None = None
    stages: tuple[Stage, ...] = ()
    place: Place | None = None
    structural: Structural | None = None
    causes: tuple[Cause, ...] = ()
    known: tuple[Known, ...] = ()
    sizes: tuple[Sizes, ...] = ()
    not_examined: tuple[str, ...] = ()

    @property
    def where(self) -> SourceLine | None:
        return next((cause.where for cause in self.causes if cause.where is not None), None)


NOTHING = Diagnosis()
