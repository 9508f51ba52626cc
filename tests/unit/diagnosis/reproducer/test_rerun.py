"""diagnosis/reproducer/rerun.py: the file of a call is read without the user's classes."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from pytest_torchexport.diagnosis.reproducer.rerun import Rerun, Unreadable
from pytest_torchexport.inputs.spec import Call


class Pair(NamedTuple):
    x: torch.Tensor
    y: int


class Unknown:
    pass


def saved(path, *args, **kwargs):
    Rerun(calls=[Call(args, kwargs)] * 2, eager={}, artifact={}, right="eager").save(path)
    return torch.load(path, weights_only=True)["calls"]


def test_a_call_is_read_as_it_was(tmp_path):
    rows = torch.arange(6.0).view(2, 3).t()
    half = torch.ones(2, dtype=torch.bfloat16).expand(3, 2).requires_grad_()
    sparse = torch.eye(3).to_sparse()
    first, second = saved(
        tmp_path / "call.pt",
        rows,
        Pair(half, 2),
        [True, None, "a"],
        at={"k": torch.float16},
        s=sparse,
    )
    args, kwargs = first
    assert torch.equal(args[0], rows)
    assert args[0].stride() == rows.stride()
    assert type(args[1]) is tuple
    assert (args[1][0].dtype, args[1][0].stride()) == (half.dtype, half.stride())
    assert args[1][0].requires_grad
    assert args[2] == [True, None, "a"]
    assert kwargs["at"] == {"k": torch.float16}
    assert torch.equal(kwargs["s"].to_dense(), torch.eye(3))
    assert second[0][2] == first[0][2]


def test_a_call_with_an_object_of_the_users_is_not_kept(tmp_path):
    with pytest.raises(Unreadable, match="Unknown"):
        saved(tmp_path / "call.pt", Unknown())
    assert list(tmp_path.iterdir()) == []
