"""outcomes/operators.py: operators are told by their names."""

from __future__ import annotations

import torch

from pytest_torchexport.outcomes.operators import name_of


def test_names_of_operators_are_told_without_overload_and_mark_of_place():
    assert name_of(torch.ops.aten.add_.Tensor) == "add"
    assert name_of(torch.ops.aten.add.Tensor) == "add"
