"""diagnosis/script_text.py: the file of a call is read without the user's classes; no text becomes a part of the program."""

from __future__ import annotations

import ast
from typing import NamedTuple

import pytest
import torch

from pytest_torchexport.diagnosis.script_text import CALL, HEAD, Rerun, Unreadable, commented
from pytest_torchexport.inputs.spec import Call


class Pair(NamedTuple):
    x: torch.Tensor
    y: int


class Unknown:
    pass


def saved(folder, *args, **kwargs):
    """Save a call twice, and return both as the script reads them."""
    calls = [Call(args, kwargs)] * 2
    Rerun(calls=calls, eager={}, artifact={}, right="eager").save(folder / CALL)
    script = {"__file__": str(folder / "reproduce.py")}
    exec(HEAD.format(imports="", device="cpu", limit="", call=CALL), script)
    return script["read"]("calls")


def test_a_call_is_read_as_it_was(tmp_path):
    rows = torch.arange(6.0).view(2, 3).t()
    half = torch.ones(2, dtype=torch.bfloat16).expand(3, 2).requires_grad_()
    nan = [True, None, "a", float("nan")]
    first, second = saved(tmp_path, rows, Pair(half, 2), nan, rows, at={"k": torch.float16})
    args, kwargs = first
    assert torch.equal(args[0], rows)
    assert args[0].stride() == rows.stride()
    assert type(args[1]) is tuple
    assert (args[1][0].dtype, args[1][0].stride()) == (half.dtype, half.stride())
    assert args[1][0].requires_grad
    assert repr(args[2]) == repr(nan)
    assert args[3] is args[0]
    assert kwargs["at"] == {"k": torch.float16}
    assert torch.equal(second[0][0], rows)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([]),
        torch.tensor([1 + 2j]).conj(),
        torch.arange(12.0).reshape(3, 4)[1:, ::2],
    ],
)
def test_tensors_of_any_layout_are_read_with_their_numbers(tmp_path, tensor):
    ((there,), _), _ = saved(tmp_path, tensor)
    assert (there.dtype, there.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(there, tensor)


@pytest.mark.parametrize(
    ("value", "what"),
    [(Unknown(), "a Unknown"), (torch.eye(3).to_sparse(), "sparse"), ({(1,): 2}, "keys")],
)
def test_a_call_that_plain_containers_cannot_hold_is_not_kept(tmp_path, value, what):
    with pytest.raises(Unreadable, match=what):
        saved(tmp_path, value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "end", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\x00"], ids=ascii
)
def test_a_text_in_a_comment_cannot_leave_it(end):
    assert ast.parse(commented(f"m.a{end}1 / 0{end}")).body == []
    (only,) = ast.parse(f"{commented(f'a{end}b')}x = 1\n").body
    assert isinstance(only, ast.Assign)
