"""Find the lines at which a trace makes numbers constants: trace the subject again, and listen.

While a trace runs, sizes are tensors. Each number that Python reads from a tensor is an operator,
also of a size, and torch warns of most of them (TracerWarning), with the user's line. It does not
warn of ``range(x.shape[0])`` and other functions that take a tensor for an integer.
"""

from __future__ import annotations

import dis
import math
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from pytest_torchexport.diagnosis.recording import record
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.users_lines import UsersLines
from pytest_torchexport.results.source_line import OWNERS, SourceLine, source_line

_A_NUMBER = re.compile(r"to a Python (?:boolean|float|integer|index)")


@dataclass(frozen=True)
class Conversion:
    """A line at which a number was read while the subject was traced.

    ``numbers``: what was read there, nan if it is not known; empty for a list or an array.
    ``decides``: they are only truth values, as an ``if`` reads them.
    """

    where: SourceLine
    numbers: tuple[float, ...] = ()
    decides: bool = False


def conversions(case: Case) -> tuple[Conversion, ...]:
    """Return the lines at which tracing the subject again reads numbers; none if it refuses."""
    call = case.call_to_export()

    def trace() -> object:
        return case.exported(call, target="trace")

    with _integers() as silent, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        traced = record(trace, Call(), seed=case.plan.seed)
        recorded = isinstance(traced.outcome, Returned)
        if not recorded and not isinstance(observe(trace, Call(), seed=case.plan.seed), Returned):
            return ()
    numbers: dict[SourceLine, list[float]] = {}
    wanted: set[SourceLine] = set()
    for item in heard:
        said = str(item.message)
        named = any(belongs(item.filename) for belongs in OWNERS)
        if item.category.__name__ == "TracerWarning" and named:
            where = source_line(item.filename, item.lineno)
            numbers.setdefault(where, [])
            if "to a Python boolean" not in said:
                wanted.add(where)
            # Some modules cannot be traced while they are recorded: torch's warning is left.
            if not recorded and re.search(
                r"to a Python (boolean|float|integer|index)", str(item.message)
            ):
                numbers[where].append(math.nan)
    for where, number in silent:
        numbers.setdefault(where, []).append(number)
        wanted.add(where)
    for step in traced.steps:
        if step.where in numbers:
            numbers[step.where] += step.read
    return tuple(
        Conversion(where, tuple(read), decides=where not in wanted)
        for where, read in numbers.items()
    )


@contextmanager
def _integers() -> Iterator[list[tuple[SourceLine, float]]]:
    """Yield a list of where Python takes a tensor for an integer within the block, except x[...].

    A trace follows a tensor that is an index or the end of a slice. Other functions of torch that
    take one for an integer, and are followed, do not ask it for ``__index__``.
    """
    read: list[tuple[SourceLine, float]] = []
    lines, index = UsersLines(), torch.Tensor.__index__

    def noting(tensor: Any) -> int:
        number: int = index(tensor)
        frame = sys._getframe(1)
        where, _ = lines.innermost(frame, None)
        if where is not None and not _is_index(frame):
            read.append((where, float(number)))
        return number

    inherits = "__index__" not in vars(torch.Tensor)
    torch.Tensor.__index__ = noting  # type: ignore[method-assign, assignment]
    try:
        yield read
    finally:
        if inherits:
            del torch.Tensor.__index__
        else:
            torch.Tensor.__index__ = index  # type: ignore[method-assign]


def _is_index(frame: FrameType) -> bool:
    """Return True if a frame is at ``x[...]``."""
    steps = dis.get_instructions(frame.f_code)
    name = next((step.opname for step in steps if step.offset == frame.f_lasti), "")
    return "SUBSCR" in name or "SLICE" in name
