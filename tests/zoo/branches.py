"""Helpers for rows of models that branch: their usual truths, and ``branch``, which writes a row.

The models are in one file per family: ``branches_values`` (conditions on float tensors),
``branches_numbers`` (numbers that decide without an ``if``),
``branches_places`` (by the place of the condition in the source), ``branches_sizes`` (sizes, ids,
masks, lengths and Python arguments) and ``branches_models`` (loops, and whole models).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.row import BRANCH, NARROWED, REFUSED, Example, Row, row, truth

# torch.export and the exporter built on it refuse the branch, script keeps it, a trace freezes it.
VALUE = truth(trace=BRANCH, export=REFUSED, onnx=REFUSED, onnx_legacy=BRANCH)
# The same, but TorchScript cannot compile it.
PYTHON = truth(BRANCH, script=REFUSED, export=REFUSED, onnx=REFUSED)
# A trace freezes the branch, and torch.export narrows the sizes to those of the side taken.
SIZE = truth(trace=BRANCH, export=NARROWED, onnx=NARROWED, onnx_legacy=BRANCH)
# Frozen, but right on every legal call.
EQUAL = truth(export=REFUSED, onnx=REFUSED)


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
