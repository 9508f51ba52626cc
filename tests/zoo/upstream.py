"""One reproduction of each known defect of another package (diagnosis/known_defects.py).

Not rows of the zoo: each is of one target, and says which defect the report has to name. ``values``
are the numbers that a call may hold, if the example's own range would not show the defect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A module that fails because of a defect, and the call on which it does.

    ``ci``: CI runs it. ``options`` are arguments of ``check_export``.
    """

    defect: str
    build: Callable[[], nn.Module]
    call: tuple[Any, ...]
    ci: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


class Of(nn.Module):
    """Calls a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def of(defect: str, function: Callable[..., Any], *call: Any, ci: bool = False) -> Reproduction:
    """Return the reproduction of a defect that one expression shows."""
    return Reproduction(defect=defect, build=lambda: Of(function).eval(), call=call, ci=ci)


def t(*numbers: Any, **kwargs: Any) -> Tensor:
    """Return a vector."""
    return torch.tensor(numbers, **kwargs)


def log_of_almost_zero(x: Tensor) -> Tensor:
    """Return what a small epsilon keeps finite."""
    return torch.log(x + 1e-8)


UPSTREAM: tuple[Reproduction, ...] = (
    of("a small addend is dropped", log_of_almost_zero, t(0.0, 1.0), ci=True),
    of("floor_divide by way of a quotient", lambda x: x // 0.1, t(1.0, 0.5, 0.3), ci=True),
    of("atan2 of zero and a negative number", torch.atan2, t(0.0, 1.0), t(-1.0, -1.0), ci=True),
    of("logaddexp overflows", torch.logaddexp, t(89.0, 0.0), t(0.0, 0.0)),
    of("logaddexp2 overflows", torch.logaddexp2, t(189.0, 0.0), t(0.0, 0.0)),
    of("logcumsumexp underflows", lambda x: x.logcumsumexp(0), t(-100.0, 0.0, 89.0)),
    of("erfcx of large numbers", torch.special.erfcx, t(0.0, 1.0, 20.0)),
    of(
        "scatter_reduce with mean does not reduce",
        lambda x, i, v: x.scatter_reduce(0, i, v, "mean"),
        t(1.0, 2.0, 3.0),
        t(0, 2, 1),
        t(5.0, 7.0, 0.5),
        ci=True,
    ),
    of("max and min drop nan", lambda x: x.amax(0), t(1.0, nan, 3.0)),
)
