"""judge/rounding.py: the operators that are exact have names that torch knows."""

from __future__ import annotations

import torch

from pytest_torchexport.judge.rounding import EXACT


def test_every_exact_operator_is_one_that_torch_has():
    known = {name.rpartition("::")[2].partition(".")[0] for name in _operators()}
    unknown = {name for name in EXACT if name not in known and f"{name}_" not in known}
    assert unknown == set()


def _operators():
    return torch._C._dispatch_get_all_op_names()
