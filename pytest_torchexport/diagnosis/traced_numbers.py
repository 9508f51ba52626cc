"""The numbers that Python reads from tensors while a subject is traced, by line.

While ``torch.jit.trace`` runs forward, sizes are tensors: ``int(x.shape[0])`` reads a number from
one as ``x.max().item()`` does, and the trace keeps both as constants. Traced with other numbers in
their place, forward does what it would do if it had read these.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.observe import Outcome, observe
from pytest_torchexport.outcomes.tape import UsersLines
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.capturing import FlatModule

# The methods by which Python makes numbers of a tensor. torch's own functions read a tensor that
# they are given for an integer in C++: a trace follows that.
READERS = (
    *("__bool__", "__int__", "__float__", "__complex__", "__index__", "item"),
    *("tolist", "numpy", "__array__"),
)

# What was read on each line, in order.
Numbers = Mapping[SourceLine, list[Any]]
Replace = Callable[[SourceLine, Any], Any]


def read_numbers(case: Case, call: Call) -> Numbers:
    """Return what Python reads from tensors while a call is traced, by line."""
    numbers: dict[SourceLine, list[Any]] = {}
    _traced(case, call, _noting(numbers))
    return numbers


def read_by_eager(case: Case, call: Call) -> Numbers:
    """Return what eager reads from tensors in a call, by line; a size is no tensor to it."""
    numbers: dict[SourceLine, list[Any]] = {}
    subject = case.reference.pristine.copy()

    def run(*args: Any, **kwargs: Any) -> Any:
        with _handled(_noting(numbers)):
            return subject.function(*args, **kwargs)

    observe(run, call, seed=case.plan.seed, grad_mode=subject.grad_mode)
    return numbers


def outcome_with(case: Case, call: Call, numbers: Numbers) -> Outcome:
    """Return what a call returns if Python reads these numbers on their lines."""
    left = {where: iter(read) for where, read in numbers.items()}

    def replaced(where: SourceLine, value: Any) -> Any:
        other = next(left.get(where, iter(())), value)
        return type(value)(other) if isinstance(value, (bool, int, float)) else other

    return _traced(case, call, replaced)


def _noting(numbers: dict[SourceLine, list[Any]]) -> Replace:
    def note(where: SourceLine, value: Any) -> Any:
        kept = value.detach().clone() if isinstance(value, torch.Tensor) else value
        numbers.setdefault(where, []).append(kept)
        return value

    return note


def decides_alone(read: list[Any]) -> bool:
    """Return True if a line reads truth values alone, as an ``if`` does."""
    return all(isinstance(value, bool) for value in read)


def same(one: list[Any], other: list[Any]) -> bool:
    if any(isinstance(value, np.ndarray) for value in (*one, *other)):
        return len(one) == len(other) and all(map(np.array_equal, one, other))
    return not compare_values(one, other, Tolerance(0.0, 0.0))


def _traced(case: Case, call: Call, read: Replace) -> Outcome:
    """Return what forward returns while it is traced; ``read`` returns what to take for a number.

    Not what the trace would return: a number that forward only passes on is none of its constants.
    """
    subject = case.reference.pristine.copy().to(case.plan.device)
    for parameter in subject.module.parameters() if subject.module is not None else ():
        parameter.requires_grad_(False)  # no trace of a function may hold one that does

    def run(*args: Any, **kwargs: Any) -> Any:
        own = Call(args, kwargs)
        flat, values = FlatModule(subject.function, own), list[Any]()

        def forward(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            values.append(flat(*tensors))
            return tensors

        with _handled(read), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trace: Any = torch.jit.trace
            trace(forward, own.tensors(), check_trace=False, strict=False)
        return values[0]

    return observe(run, call.to(case.plan.device), seed=case.plan.seed)


@contextmanager
def _handled(read: Replace) -> Iterator[None]:
    """Replace in the block what Python reads from tensors on lines of forward."""
    inside, lines = False, UsersLines()

    def reader(original: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside or not (args and isinstance(args[0], torch.Tensor)):
                return original(*args, **kwargs)
            inside = True
            try:
                value = original(*args, **kwargs)
            finally:
                inside = False
            where = lines.of_a_read(sys._getframe(1), None)
            return value if where is None else read(where, value)

        return stand_in

    with ExitStack() as stack:
        for owner, name in (*((torch.Tensor, name) for name in READERS), (torch, "tensor")):
            stand_in = reader(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        yield
