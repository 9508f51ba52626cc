"""Draw from Hypothesis strategies: the plugin's own recipes, and the values that a user gives.

Separate because calls and values are drawn in the same way: from one seed, with nothing stored and
nothing shrunk. Of the profile of the user's suite only the number of examples counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import hypothesis
from hypothesis import errors
from hypothesis import strategies as st

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.results.failures import SpecError, ends_the_test

_Value = TypeVar("_Value")


def examples(plan: Plan) -> int:
    """Return how many calls to draw: as command line, marker, ini file or profile say."""
    given = plan.max_examples or plan.options.max_examples or plan.settings.max_examples
    # Half of Hypothesis's own 100, as one of ours is a call of eager and of an artifact.
    return given or max(1, hypothesis.settings().max_examples // 2)


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
) -> st.SearchStrategy[Any]:
    """Return the strategy in ``values`` of a leaf, with ``taken`` called on each value.

    Drawing raises SpecError if the strategy raises; ``taken`` may.
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

    return values()


def some(strategy: st.SearchStrategy[Any], path: str, most: int) -> list[Any]:
    """Return some different values of a strategy in ``values``, the same ones each time.

    Raises SpecError if it gives none.
    """
    found: dict[str, Any] = {}
    try:
        for_each(strategy, lambda value: found.update({repr(value): value}), seed=0, most=most)
    except errors.Unsatisfiable:
        raise SpecError(f"values: the strategy of {path!r} gives no value") from None
    except errors.HypothesisException as error:
        raise SpecError(
            f"values: the strategy of {path!r} gives no value: {type(error).__name__}: {error}"
        ) from error
    return list(found.values())
