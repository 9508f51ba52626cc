"""Write the rows of ``branches.py``: a module, an example, and calls that take its other outcomes.

Separate from the zoo's rows: these models are searched and not exported, so that they have no
verdicts. Of each threshold behind a network, ``ascended`` shows that it can be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from zoo.row import Row, call, row, seeded

ASCENT_STEPS = 300
ASCENT_RATE = 0.1


def searched(name: str, factory: Callable[[], Any], x: Any, *witnesses: Any, **options: Any) -> Row:
    """Return a row of a model with the tensors of its example and of its witnesses.

    One tensor stands for a call with it alone, a tuple for a call with several arguments.
    """
    example, *others = (call(*_tuple(given)) for given in (x, *witnesses))
    return row(name, factory, example, witnesses=tuple(others), **options)


def _tuple(given: Any) -> tuple[Any, ...]:
    return given if isinstance(given, tuple) else (given,)


def beyond(
    name: str,
    factory: Callable[[], Any],
    x: Tensor,
    *,
    most: float,
    share: float = 0.8,
    band: float | None = None,
    others: Sequence[Callable[[Any, Tensor], Tensor]] = (),
    **options: Any,
) -> Row:
    """Return a row of a model with a ``limit``, which is set so that a legal call exceeds it.

    ``score`` of the model is compared with the limit. The limit lies between the score of the
    example and that of a call found by ascent, ``share`` of the way. ``band`` asks for a score
    between the limit and that much more. ``others`` are further scores, which other outcomes need
    to be large. ``most`` is the largest magnitude of an element.
    """
    model = seeded(factory)()
    found = ascended(model.score, x, most)
    with torch.no_grad():
        limit = torch.lerp(model.score(x), model.score(found), share).item()
        between = [] if band is None else [_met(model.score, x, found, limit + band / 2)]
    more = [ascended(partial(score, model), x, most) for score in others]

    def build() -> nn.Module:
        made: Any = factory()
        made.limit = limit
        return made  # type: ignore[no-any-return]

    witnesses = (found, *between, *more)
    return searched(name, build, x, *witnesses, values={"x": (-most, most)}, **options)


def ascended(score: Callable[[Tensor], Tensor], start: Tensor, most: float) -> Tensor:
    """Return a tensor of elements up to ``most`` whose score is large: a long ascent by Adam."""
    best, highest = start, score(start).item()
    x = start.clone().requires_grad_()
    steps = torch.optim.Adam([x], lr=ASCENT_RATE, maximize=True)
    for _ in range(ASCENT_STEPS):
        steps.zero_grad()
        now = score(x)
        if now.item() > highest:
            best, highest = x.detach().clone(), now.item()
        now.backward()
        steps.step()
        with torch.no_grad():
            x.clamp_(-most, most)
    return best


def _met(score: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, wanted: float) -> Tensor:
    """Return the tensor between two others that has the wanted score."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle).item() < wanted else (low, middle)
    return high
