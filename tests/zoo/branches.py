"""What rows of models that branch are written with: their usual truths, and a row in one breath.

The models are in one file per family: ``branches_values`` (on what float tensors hold), ``branches_sizes``
(on sizes, ids, masks, lengths and Python arguments) and ``branches_models`` (loops, and whole models).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.row import BRANCH, NARROWED, REFUSED, Example, Row, row, truth

# What torch.export and the exporter on it refuse, script takes, and a trace takes one side of.
VALUE = truth(trace=BRANCH, export=REFUSED, onnx=REFUSED, onnx_legacy=BRANCH)
# The same, where TorchScript has no words for it.
PYTHON = truth(BRANCH, script=REFUSED, export=REFUSED, onnx=REFUSED)
# A trace takes one side, and torch.export keeps to the sizes of that side.
SIZE = truth(trace=BRANCH, export=NARROWED, onnx=NARROWED, onnx_legacy=BRANCH)
# Frozen, and right on every legal call.
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
    """A row whose trace has frozen the condition on ``line``, as some witness shows."""
    return row(name, factory, example, expect, witnesses=witnesses, line=line, **options)


def rows(*numbers: float) -> Tensor:
    """Four times the same row."""
    return torch.tensor([numbers]).repeat(4, 1)


def filled(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value)
