"""Draw values of Hypothesis strategies: ours, and those that the user gives in ``values``.

Targets import ``domains``, and the clean process them; it has no Hypothesis. So ``domains`` imports
this file where a strategy is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import hypothesis
from hypothesis import errors
from hypothesis import strategies as st

from pytest_torchexport.results.failures import SpecError, ends_the_test

_Value = TypeVar("_Value")


def for_each(
    strategy: st.SearchStrategy[_Value],
    function: Callable[[_Value], None],
    *,
    seed: int,
    most: int,
) -> None:
    """Call a function with up to ``most`` values, the same ones for the same seed.

    Raises what the function raises, and hypothesis.errors.Unsatisfiable if there is no value.
    """

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=most,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
        backend="hypothesis",
    )
    @hypothesis.given(strategy)
    def drawn(value: _Value) -> None:
        function(value)

    drawn()


def given_by_the_user(
    strategy: st.SearchStrategy[Any], path: str, taken: Callable[[Any], Any]
) -> tuple[st.SearchStrategy[Any], list[Any]]:
    """Return a leaf's strategy in ``values`` with ``taken`` called on each value, and some values.

    These are different ones, the same each time, for the calls that Hypothesis does not draw.
    Drawing raises SpecError if the strategy raises; ``taken`` may. Raises SpecError if it gives no
    value.
    """

    @st.composite
    def values(draw: st.DrawFn) -> Any:
        try:
            value = draw(strategy)
        except errors.UnsatisfiedAssumption:
            raise
        except Exception as error:
            if ends_the_test(error):
                raise
            raise SpecError(
                f"values: the strategy of {path!r} raised {type(error).__name__}: {error}"
            ) from error
        return taken(value)

    some: dict[str, Any] = {}
    try:
        for_each(values(), lambda value: some.update({repr(value): value}), seed=0, most=32)
    except errors.HypothesisException as error:
        raise SpecError(
            f"values: the strategy of {path!r} gives no value: {type(error).__name__}: {error}"
        ) from error
    return values(), list(some.values())
