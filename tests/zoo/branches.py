"""Helpers for rows of models that branch: their usual truths, and ``branch``, which writes a row.

The models are in one file per family: ``branches_values`` (conditions on float tensors),
``branches_numbers`` (numbers that decide without an ``if``),
``branches_places`` (by the place of the condition in the source), ``branches_sizes`` (sizes, ids,
masks, lengths and Python arguments), ``branches_models`` (loops, and whole models),
``branches_deployed`` (models with several conditions, as users have them) and
``branches_held_out`` (more of these, which the benchmark prints apart).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.row import BRANCH, DIFFERS, NARROWED, REFUSED, Example, Row, row, seeded, truth

ASCENT_STEPS = 200
ASCENT_RATE = 0.1

# torch.export and the exporter built on it refuse the branch, script keeps it, a trace freezes it.
VALUE = truth(trace=BRANCH, export=REFUSED, onnx=REFUSED, onnx_legacy=BRANCH)
# The same, but TorchScript cannot compile it.
PYTHON = truth(BRANCH, script=REFUSED, export=REFUSED, onnx=REFUSED)
# A trace freezes the branch, and torch.export narrows the sizes to those of the side taken.
SIZE = truth(trace=BRANCH, export=NARROWED, onnx=NARROWED, onnx_legacy=BRANCH)
# Frozen, but right on every legal call.
EQUAL = truth(export=REFUSED, onnx=REFUSED)
# A number that Python read is kept too, so that calls on the example's path differ as well.
NUMBER = truth(trace=DIFFERS, export=REFUSED, onnx=REFUSED, onnx_legacy=DIFFERS)


def branch(
    name: str,
    factory: Callable[[], Any],
    example: Callable[[], Example],
    *witnesses: Callable[[], Example],
    line: str,
    expect: Mapping[str, str | None] = VALUE,
    **options: Any,
) -> Row:
    """Return a row whose trace has frozen the condition on ``line``, as some witness shows."""
    return row(name, factory, example, expect, witnesses=witnesses, line=line, **options)


def rows(*numbers: float) -> Tensor:
    """Return four times the same row."""
    return torch.tensor([numbers]).repeat(4, 1)


def filled(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value)


def climbed(
    factory: Callable[[], Any],
    start: Tensor,
    score: Callable[[Any, Tensor], Tensor],
    most: float = 5.0,
) -> Callable[[], Example]:
    """Return a witness on which a score of the model is large.

    It is found by ascent, with elements up to ``most``, when the witness is asked for.
    """

    def witness() -> Example:
        model = seeded(factory)()
        x = start.clone().requires_grad_()
        ascent = torch.optim.Adam([x], lr=ASCENT_RATE, maximize=True)
        for _ in range(ASCENT_STEPS):
            ascent.zero_grad()
            score(model, x).backward()
            ascent.step()
            with torch.no_grad():
                x.clamp_(-most, most)
        return (x.detach(),), {}

    return witness


def witness_of(factory: Callable[[], Any], make: Callable[[Any], Tensor]) -> Callable[[], Example]:
    """Return a witness that is made of the model's own numbers, when it is asked for."""
    return lambda: ((make(seeded(factory)()).detach().clone(),), {})


def margin(logits: Tensor, place: int) -> Tensor:
    """Return by how much one class is ahead of the others; in the worst row."""
    others = [number for number in range(logits.shape[-1]) if number != place]
    return (logits[..., place] - logits[..., others].amax(-1)).amin()
