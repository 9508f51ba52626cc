"""Find the numbers of Python that are to blame: trace again with others in their place."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.observe import observe
from pytest_torchexport.outcomes.operators import dispatched
from pytest_torchexport.outcomes.tape import UsersLines
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.base import Artifact, NotApplicable

# A trace is made for each of so many lines.
MOST_LINES = 12
# And no longer than so many seconds.
SECONDS = 2.5

Number = bool | int | float
Numbers = Mapping[SourceLine, Sequence[Number]]


def read_numbers(case: Case, call: Call) -> Numbers:
    """Return the numbers that Python reads from tensors while a call is traced, by line."""
    numbers: dict[SourceLine, list[Number]] = {}

    def note(line: SourceLine, number: Number) -> Number:
        numbers.setdefault(line, []).append(number)
        return number

    _traced(case, call, note)
    return numbers


def frozen_numbers(scene: Scene, constant: Mapping[SourceLine, bool], there: Numbers) -> Numbers:
    """Return the lines to blame, and the numbers that Python reads there at the export.

    A trace that is made with the failing call's numbers there agrees with eager on it, or one that
    is made at that call with these numbers returns what the artifact does; with one line less, it
    does not. Empty if there are no such lines. ``constant`` are the lines at which the trace made
    constants, True for one that reads only truth values; ``there`` are the failing call's numbers.
    """
    if scene.call is None:
        return {}
    at = scene.case.call_to_export()
    own = read_numbers(scene.case, at)
    other = [line for line in constant if own.get(line) != there.get(line)]
    trials = (
        _Trial(scene, at, there, scene.agrees_as),
        _Trial(scene, scene.call, own, scene.fails_as),
    )
    end = time.monotonic() + SECONDS
    # A trace that takes another side of an if may not fit the example.
    for lines in ([line for line in other if not constant[line]], other):
        for trial in trials:
            if 0 < len(lines) <= MOST_LINES and trial.is_enough(lines):
                fewest = trial.fewest(lines, end)
                return {line: own.get(line, there.get(line, ())) for line in fewest}
    return {}


@dataclass(frozen=True)
class _Trial:
    """A call to trace, numbers to read there, and what shows that these are to blame."""

    scene: Scene
    at: Call
    numbers: Numbers
    shows: Callable[[Artifact], bool]

    def is_enough(self, lines: Sequence[SourceLine]) -> bool:
        """Return True if the numbers of these lines alone are to blame."""
        numbers = {line: self.numbers[line] for line in lines if line in self.numbers}
        artifact = _traced_with(self.scene.case, self.at, numbers) if numbers else None
        return artifact is not None and self.shows(artifact)

    def fewest(self, lines: Sequence[SourceLine], end: float) -> Sequence[SourceLine]:
        """Return the fewest of these lines that are enough; none if that takes too long."""
        for line in tuple(lines):
            fewer = [each for each in lines if each != line]
            if time.monotonic() > end:
                return ()
            if self.is_enough(fewer):
                lines = fewer
        return lines


def _traced_with(case: Case, call: Call, numbers: Numbers) -> Artifact | None:
    """Trace a call with these numbers in place of those that Python reads on lines.

    None if that cannot be traced.
    """
    left = {line: iter(read) for line, read in numbers.items()}
    return _traced(
        case,
        call,
        lambda line, number: type(number)(next(left.get(line, iter(())), number)),
    )


def _traced(
    case: Case, call: Call, read: Callable[[SourceLine, Number], Number]
) -> Artifact | None:
    """Trace a call; ``read(line, number)`` returns the number to take for one that is read."""
    made: list[Artifact] = []
    lines = UsersLines()

    def run(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = operator(*args, **kwargs)
        if not isinstance(found, (bool, int, float)):
            return found
        where = lines.of_a_read(sys._getframe(1), None)
        return read(where, found) if where is not None else found

    def trace() -> None:
        with dispatched(run), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            artifact = case.exported(call, target="trace")
        if not isinstance(artifact, NotApplicable):
            made.append(artifact)

    observe(trace, Call(), seed=case.plan.seed)
    return made[0] if made else None
