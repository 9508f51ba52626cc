"""Run a function while explore/integers.py remembers its operators."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pytest_torchexport.explore.integers import Origins
from pytest_torchexport.outcomes.operators import dispatched


def followed(function: Callable[[Tensor], Tensor], given: Tensor) -> tuple[Origins, Tensor]:
    """Return the origins of the run, and what the function returns."""
    origins = Origins([given])

    def saw(func, args, kwargs):
        result = func(*args, **kwargs)
        origins.saw(func, args, kwargs, result)
        return result

    with dispatched(saw):
        return origins, function(given)
