"""Run a function while explore/numbers.py remembers its operators."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pytest_torchexport.explore.numbers import Tape
from pytest_torchexport.outcomes.operators import dispatched


def followed(function: Callable[[Tensor], Tensor], given: Tensor) -> tuple[Tape, Tensor]:
    """Return the tape of the run, and what the function returns."""
    tape = Tape([given])

    def saw(func, args, kwargs):
        result = func(*args, **kwargs)
        tape.saw(func, args, kwargs, result)
        return result

    with dispatched(saw):
        return tape, function(given)
