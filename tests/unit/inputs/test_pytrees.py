"""inputs/pytrees.py: containers in, leaves with paths out, and back again."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from pytest_torchexport.inputs.pytrees import (
    bits_of,
    copy_tensor,
    describe,
    flatten,
    holders,
)


class Pair(NamedTuple):
    left: object
    right: object


@dataclasses.dataclass
class Output:
    logits: object
    hidden: object = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    value: object


@dataclasses.dataclass(slots=True)
class Slotted:
    value: object


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        (1, ["x"]),
        (range(3), ["x"]),
        ((1, 2), ["x[0]", "x[1]"]),
        ([1, [2, (3,)]], ["x[0]", "x[1][0]", "x[1][1][0]"]),
        ({"a": 1, "b": {"c": 2}}, ["x['a']", "x['b']['c']"]),
        ({1: 1, None: 2, (3, 4): 5}, ["x[1]", "x[None]", "x[(3, 4)]"]),
        (OrderedDict(b=1, a=2), ["x['b']", "x['a']"]),
        (defaultdict(list, a=1), ["x['a']"]),
        (UserDict(a=1), ["x['a']"]),
        (deque([1, 2], maxlen=5), ["x[0]", "x[1]"]),
        (Pair(1, Pair(2, None)), ["x[0]", "x[1][0]", "x[1][1]"]),
        (Output([1], {"h": 2}), ["x['logits'][0]", "x['hidden']['h']"]),
        (Frozen((1, 2)), ["x['value'][0]", "x['value'][1]"]),
        (Slotted([1]), ["x['value'][0]"]),
        (torch.Size([2, 3]), ["x[0]", "x[1]"]),
        ([{}, (), None], ["x[2]"]),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}"[:40],
)
def test_leaves_have_paths_as_a_user_writes_them_and_come_back(value, paths):
    leaves, structure = flatten(value, "x")
    assert [path for path, _ in leaves] == paths
    assert structure.count == len(leaves)
    back = structure.unflatten([leaf for _, leaf in leaves])
    assert type(back) is type(value)
    assert back == value
    if isinstance(value, defaultdict):
        assert back.default_factory is list
    if isinstance(value, deque):
        assert back.maxlen == value.maxlen


class Halves(namedtuple("halves", "a b")):  # noqa: PYI024  # a plain namedtuple is the case
    """Its class takes one part, and makes the other."""

    __slots__ = ()

    def __new__(cls, a):
        return super().__new__(cls, a, a / 2)


def test_a_namedtuple_comes_back_without_a_call_of_its_class():
    leaves, structure = flatten(Halves(4))
    assert structure.unflatten(leaf for _, leaf in leaves) == (4, 2)
    packed = pack_sequence([torch.ones(2, 3), torch.ones(1, 3)])
    _, structure = flatten(packed)
    named = structure.unflatten([{}, None, None, None])
    assert type(named) is PackedSequence
    assert named[0] == {}


def test_a_class_that_checks_its_parts_ties_them_together():
    packed = pack_sequence([torch.ones(2, 3), torch.ones(1, 3)])
    _, structure = flatten((1, {"a": packed}, Pair(2, 3), namedtuple("nt", "a")(4)))  # noqa: PYI024
    assert holders(structure) == (None, *[PackedSequence] * 4, None, None, None)


def test_copied_tensors_keep_their_layout_and_requires_grad_and_lose_their_graph():
    for tensor in (
        torch.arange(6).reshape(2, 3).t(),
        torch.tensor([1 + 2j]).conj(),
        torch.ones(2).to(torch.float8_e5m2),
    ):
        copied = copy_tensor(tensor)
        assert (copied.dtype, copied.stride()) == (tensor.dtype, tensor.stride())
        assert copied.tolist() == tensor.tolist()
    assert copy_tensor(torch.eye(3).to_sparse()).to_dense().equal(torch.eye(3))
    differentiable = torch.ones(2, requires_grad=True)
    assert copy_tensor(differentiable).requires_grad
    assert copy_tensor(differentiable * 2).grad_fn is None


def test_values_are_described_in_a_word():
    assert describe(torch.zeros(2, 3)) == "float32[2, 3]"
    assert describe(torch.zeros((), dtype=torch.bool)) == "bool[]"
    assert describe(None) == "None"
    assert describe("a") == "'a'"
    assert describe(1.5) == "1.5"
    assert describe(Output(1)) == "Output"
    assert "meta" in describe(torch.zeros(1, device="meta"))


def test_the_bits_of_a_tensor_follow_its_elements_and_not_its_strides():
    x = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    assert bits_of(x.T) == bits_of(x.T.contiguous()) != bits_of(x)
    assert bits_of(x[:0]) == b""
    complex_ = torch.tensor([1 + 2j])
    assert bits_of(complex_.conj()) == bits_of(torch.tensor([1 - 2j]))


def test_an_array_of_numpy_holds_a_tensor_in_its_memory():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    ((path, tensor),), structure = flatten({"x": array}, "batch")
    assert (path, tensor.shape) == ("batch['x']", (2, 3))
    tensor[0, 0] = 7
    assert array[0, 0] == 7
    back = structure.unflatten([tensor * 2])["x"]
    assert type(back) is np.ndarray
    assert back[0, 0] == 14


@pytest.mark.parametrize(
    "array",
    [np.arange(3)[::-1], np.broadcast_to(np.ones(1), (2,))],
    ids=["with negative strides", "read-only"],
)
def test_an_array_that_torch_cannot_write_to_is_copied(array):
    ((_, tensor),), _ = flatten(array)
    assert tensor.tolist() == array.tolist()


def test_an_array_of_what_torch_has_no_dtype_for_is_a_leaf():
    array = np.array(["a"])
    assert flatten(array)[0][0][1] is array
