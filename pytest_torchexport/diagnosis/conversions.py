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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any
from unittest import mock

import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.tape import UsersLines, record
from pytest_torchexport.results.source_line import SourceLine, has_owner, source_line

_A_NUMBER = re.compile(r"to a Python (?:boolean|float|integer|index)")
# torch.tensor() and its kin: a constant of what they are given, which may be read elsewhere.
_MADE_OF_ANY = "results are registered as constants in the trace"


@dataclass(frozen=True)
class Conversion:
    """A line at which a number was read while the subject was traced.

    ``numbers``: what was read there, nan if it is not known; empty for a list or an array.
    ``decides``: they are only truth values, as an ``if`` reads them. ``strides``: they are the
    strides of a tensor.
    """

    where: SourceLine
    numbers: tuple[float, ...] = ()
    decides: bool = False
    strides: bool = False


def conversions(case: Case) -> tuple[Conversion, ...]:
    """Return the lines at which tracing the subject again reads numbers; none if it refuses."""
    call = case.call_to_export()

    def trace() -> object:
        return case.exported(call, target="trace")

    with (
        _integers() as silent,
        _strides() as asked,
        warnings.catch_warnings(record=True) as heard,
    ):
        warnings.simplefilter("always")
        traced = record(trace, Call(), seed=case.plan.seed)
        recorded = isinstance(traced.outcome, Returned)
        if not recorded and not isinstance(observe(trace, Call(), seed=case.plan.seed), Returned):
            return ()
    numbers: dict[SourceLine, list[float]] = {}
    wanted: set[SourceLine] = set()
    made: set[SourceLine] = set()
    for where, said in _warned(heard):
        numbers.setdefault(where, [])
        if _MADE_OF_ANY in said:
            made.add(where)
        elif "to a Python boolean" not in said:
            wanted.add(where)
        # Some modules cannot be traced while they are recorded: torch's warning is left.
        if not recorded and _A_NUMBER.search(said):
            numbers[where].append(math.nan)
    for where, number in silent:
        numbers.setdefault(where, []).append(number)
        wanted.add(where)
    for step in traced.steps:
        if step.where in numbers:
            numbers[step.where] += step.read
    found = [
        Conversion(where, tuple(read), decides=where not in wanted | made)
        for where, read in numbers.items()
        if read or where not in made
    ]
    return (*found, *(Conversion(line, read, strides=True) for line, read in asked))


def _warned(heard: Sequence[warnings.WarningMessage]) -> Iterator[tuple[SourceLine, str]]:
    """Yield the lines of a trace's warnings, and what they say."""
    for item in heard:
        if item.category.__name__ == "TracerWarning" and has_owner(item.filename):
            yield source_line(item.filename, item.lineno), str(item.message)


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
        where = lines.of_a_read(frame, None)
        if where is not None and not _is_index(frame):
            read.append((where, float(number)))
        return number

    with mock.patch.object(torch.Tensor, "__index__", noting):
        yield read


@contextmanager
def _strides() -> Iterator[list[tuple[SourceLine, tuple[float, ...]]]]:
    """Yield a list of where a line of forward asks for strides within the block, and the answers.

    A trace follows the sizes of a tensor. Its strides are numbers to it, and it warns of none.
    """
    read: list[tuple[SourceLine, tuple[float, ...]]] = []
    lines, stride = UsersLines(), torch.Tensor.stride

    def noting(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        found = stride(tensor, *args, **kwargs)
        frame = sys._getframe(1)
        where = lines.of_a_read(frame, frame.f_back.f_code if frame.f_back else None)
        if where is not None:
            read.append((where, tuple(map(float, found if isinstance(found, tuple) else (found,)))))
        return found

    with mock.patch.object(torch.Tensor, "stride", noting):
        yield read


def _is_index(frame: FrameType) -> bool:
    """Return True if a frame is at ``x[...]``."""
    steps = dis.get_instructions(frame.f_code)
    name = next((step.opname for step in steps if step.offset == frame.f_lasti), "")
    return "SUBSCR" in name or "SLICE" in name
