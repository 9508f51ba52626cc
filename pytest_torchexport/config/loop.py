"""A loop around one step, as the user says it: what the next step gets.

Imports no torch. Whether its paths are those of the step's inputs and outputs is found out when the
step has run (``eager/unrolled.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_torchexport.config.validate import whole_number
from pytest_torchexport.results.failures import SpecError


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A loop of ``steps`` steps.

    ``carry``: paths of outputs to paths of the inputs that they become. ``feed``: paths of other
    inputs to a function of what the step returns, or to their values from the second step on.
    """

    steps: int
    carry: Mapping[str, str]
    feed: Mapping[str, Callable[[Any], Any] | Sequence[Any]]

    @classmethod
    def of(cls, steps: Any, carry: Any, feed: Any) -> Loop:
        """Return the loop. Raises SpecError for what is wrong in itself."""
        try:
            most = 32 if steps is None else whole_number(steps)
        except ValueError as error:
            raise SpecError(f"steps: {error}") from None
        carried = _by_path("carry", carry, "{'output[1]': 'past'}")
        for path, target in carried.items():
            if not isinstance(target, str):
                raise SpecError(f"carry: {path!r}: {target!r:.80} is not the path of an input")
        fed = {
            path: how if callable(how) else _values(path, how, most - 1)
            for path, how in _by_path("feed", feed, "{'ids': next_ids}").items()
        }
        if not carried and not fed:
            raise SpecError("a loop needs carry= or feed=: what of a step becomes the next step's")
        lengths = {path: len(how) + 1 for path, how in fed.items() if isinstance(how, Sequence)}
        shortest = min(lengths, key=lambda path: lengths[path], default="")
        if steps is None and lengths:
            most = min(most, lengths[shortest])
        elif lengths and lengths[shortest] < most:
            raise SpecError(
                f"feed: {shortest!r} has {lengths[shortest] - 1} values, and {most} steps need "
                f"{most - 1}: the first step gets that of the call"
            )
        if most < 2:
            raise SpecError("steps: a loop has at least 2")
        return cls(steps=most, carry=carried, feed=fed)


def _by_path(argument: str, value: Any, example: str) -> Mapping[str, Any]:
    given = {} if value is None else value
    if not isinstance(given, Mapping) or not all(isinstance(path, str) for path in given):
        raise SpecError(f"{argument}: {value!r:.80} is not a dict like {example}")
    return given


def _values(path: str, how: Any, most: int) -> Sequence[Any]:
    if not isinstance(how, Iterable) or isinstance(how, (str, Mapping)):
        raise SpecError(
            f"feed: {path!r}: {how!r:.80} is not a function of what the step returns, and not the "
            "values of the steps after the first"
        )
    return list(itertools.islice(how, most))
