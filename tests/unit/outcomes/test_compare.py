"""outcomes/compare.py: every difference, nothing but differences, and never an exception."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import namedtuple

import numpy as np
import pytest
import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.compare import (
    Tolerance,
    compare,
    compare_values,
    largest_error,
)
from pytest_torchexport.outcomes.observe import Raised, Returned, TimedOut
from pytest_torchexport.results.source_line import SourceLine

NAN, INF = math.nan, math.inf
Pair = namedtuple("Pair", "a b")  # noqa: PYI024  # the form that older code has


def differences(expected, actual, rtol=None, atol=None):
    return compare_values(expected, actual, Tolerance(rtol, atol))


def only(expected, actual, **tolerance):
    (difference,) = differences(expected, actual, **tolerance)
    return difference


@dataclasses.dataclass
class Output:
    a: object
    b: object


class Kept:
    def __init__(self, keys, more=None):
        self.keys = keys
        self.more = more


class Called(Kept):
    def __call__(self):
        return self.keys


def wrapped(number):
    return functools.wraps(wrapped)(lambda: number)


def one(value, dtype=None):
    return torch.tensor([value], dtype=dtype)


# -- pairs -----------------------------------------------------------------------------------------

ONES = torch.ones(2)
# Left, right, and what differs; nothing if the right one passes for the left one.
PAIRS = [
    # structure
    ((ONES, ONES), (ONES,), "structure"),
    ({"a": 1}, {"a": 1, "b": 2}, "structure"),
    ((ONES,), ONES, "structure"),
    ({"a": ONES}, (ONES,), "structure"),
    ((None, ONES), (ONES, ONES), "structure"),
    (Pair(1, 2), (1, 2), ""),
    ((1, 2), [1, 2], ""),
    (Output(1, 2), {"a": 1, "b": 2}, ""),
    ({"a": ONES, "b": -ONES}, {"b": -ONES, "a": ONES}, ""),
    # shape, dtype, device, layout
    (torch.zeros(2, 3), torch.zeros(3, 2), "shape"),
    (torch.zeros(0, 3), torch.zeros(3, 0), "shape"),
    (ONES, ONES.double(), "dtype"),
    (torch.empty(0), torch.empty(0).long(), "dtype"),
    (ONES, torch.ones(2, device="meta"), "device"),
    (torch.eye(2).to_sparse(), torch.eye(2), "device"),
    # numbers
    (one(NAN), one(NAN), ""),
    (one(NAN), one(1.0), "values"),
    (one(INF), one(NAN), "values"),
    (one(0.0), one(-0.0), ""),
    (one(INF), one(3e38), "values"),
    (one(1 + 2j), one(1 + 3j), "values"),
    (torch.eye(3).to_sparse(), 2 * torch.eye(3).to_sparse(), "values"),
    (np.ones(2), np.zeros(2), "values"),
    *(
        (tensor, tensor.detach().clone(), "")
        for tensor in (
            torch.tensor([1.0, NAN]).to(torch.float8_e5m2),
            torch.tensor([1, 2], dtype=torch.uint32),
            torch.tensor([1 + 2j]).conj().imag,
            torch.empty(0).to_sparse(),
        )
    ),
    # Python's numbers and other objects
    (2**100, 2**100, ""),
    (2**100, 2**100 + 1, "values"),
    (1, True, "structure"),
    (1.0, torch.tensor(1.0), "structure"),
    (None, 0, "structure"),
    (0.1, 0.1 + 1e-9, ""),
    (16777217.0, 16777300.0, "values"),
    (NAN, 1.0, "values"),
    (1 + 2j, 1 + (2 + 1e-12) * 1j, ""),
    (1 + 2j, 1 + 3j, "values"),
    (torch.Generator().manual_seed(1), torch.Generator().manual_seed(1), ""),
    (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2), "values"),
    (Kept(ONES, Kept(ONES)), Kept(ONES, Kept(ONES)), ""),
    (Kept(ONES, Kept(ONES)), Kept(ONES, Kept(-ONES)), "values"),
    (Called(ONES), Called(ONES), ""),
    (Called(ONES), Called(-ONES), "values"),
    (wrapped(1), wrapped(2), "values"),
]


@pytest.mark.parametrize(("left", "right", "kind"), PAIRS)
def test_what_differs_between_two_values(left, right, kind):
    assert [item.kind for item in differences(left, right)] == ([kind] if kind else [])
    assert differences(left, left) == []


def test_every_difference_is_told_with_its_path():
    assert only({"a": (1, [2, 3])}, {"a": (1, [2])}).path == "output['a'][1]"
    assert only({"a": ONES, "b": -ONES}, {"b": ONES, "a": ONES}).path == "output['b']"
    assert only([Kept(ONES, Kept(ONES))], [Kept(ONES, Kept(-ONES))]).path == (
        "output[0]['more']['keys']"
    )
    assert len(differences(([1], [2], 3), ([], [2, 2], 3))) == 2


def test_facts_that_changed_are_told_in_words():
    assert only(torch.zeros(4, 1), torch.zeros(1)).what == "shape [4, 1] became [1]"
    assert only(ONES, ONES.double()).what == "dtype float32 became float64"
    missing = only((ONES, ONES), (ONES,))
    assert (missing.expected, missing.actual) == ("tuple of 2", "tuple of 1")


# -- outcomes --------------------------------------------------------------------------------------


def test_an_artifact_that_raises_or_hangs_is_one_difference():
    eager = Returned(1, Call())
    assert compare(eager, eager, Tolerance()) == []
    raised = Raised("ValueError", "no", SourceLine("net.py", 3, "x"))
    (difference,) = compare(eager, raised, Tolerance())
    assert (difference.kind, difference.actual) == ("raised", "ValueError: no")
    assert str(difference.where) == "net.py:3  x"
    (difference,) = compare(eager, TimedOut(3.0), Tolerance())
    assert difference.kind == "hung"


def test_eager_that_did_not_return_is_no_reference():
    with pytest.raises(TypeError, match="eager must return"):
        compare(TimedOut(1.0), Returned(1, Call()), Tolerance())


# -- the element that is shown ---------------------------------------------------------------------


def test_the_worst_element_is_told_with_its_place():
    expected = torch.zeros(2, 3)
    actual = expected.clone()
    actual[1, 2], actual[0, 1] = 3.0, 1.0
    difference = only(expected, actual)
    assert (difference.index, difference.max_abs) == ((1, 2), 3.0)
    assert (difference.mismatched, difference.total) == (2, 6)
    assert (difference.expected, difference.actual) == ("0", "3")
    found = only(one(1.0).double(), one(1.0 + 1e-9, torch.float64))
    assert (found.expected, found.actual) == ("1.0", "1.000000001")  # all digits
    actual[0, 0] = NAN
    assert only(expected, actual).index == (0, 0)
    assert only(torch.tensor(1.0), torch.tensor(2.0)).index == ()


@pytest.mark.parametrize(
    ("dtype", "left", "right", "gap"),
    [
        (torch.int64, -(2**63), 2**63 - 1, 2**64 - 1),
        (torch.int64, 2**53, 2**53 + 1, 1),
        (torch.uint64, 2**64 - 1, 0, 2**64 - 1),
        (torch.bool, False, True, 1),
    ],
    ids=str,
)
def test_integers_are_exact_and_never_wrap_around(dtype, left, right, gap):
    pair = one(left, dtype), one(right, dtype)
    difference = only(*pair)
    assert difference.max_abs == pytest.approx(gap, rel=1e-9)
    assert (difference.expected, difference.actual) == (str(left), str(right))
    assert only(*pair, rtol=1e-30, atol=0.5).mismatched == 1


# -- tolerances ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "inside", "outside"),
    [
        (torch.float16, 1e-3, 3e-3),
        (torch.bfloat16, 1.5e-2, 3.5e-2),
        (torch.float32, 1e-6, 2e-5),
        (torch.complex64, 1e-6, 2e-5),
    ],
    ids=str,
)
def test_tolerances_are_those_of_torch_testing(dtype, inside, outside):
    base = one(1.0, torch.float64)
    near, far = (base + inside).to(dtype), (base + outside).to(dtype)
    assert differences(base.to(dtype), near) == []
    assert only(base.to(dtype), far).kind == "values"
    torch.testing.assert_close(near, base.to(dtype))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(far, base.to(dtype))


def test_double_precision_is_held_to_one_part_in_a_trillion_of_the_largest_element():
    expected = torch.tensor([1000.0, 1e-6, 0.0], dtype=torch.float64)
    assert differences(expected, expected + 8e-10) == []
    assert only(expected, expected + 1e-9).mismatched == 3
    infinite = torch.tensor([INF, 1.0], dtype=torch.float64)
    assert only(infinite, infinite + 1e-9).mismatched == 1


def test_the_users_tolerance_is_the_law_and_relative_to_eager():
    assert differences(one(1.0), one(1.05), rtol=0.1, atol=0.0) == []
    assert only(one(1.0), one(1.0 + 1e-6), rtol=0.0, atol=0.0)
    assert differences(one(2.0), one(1.0), rtol=0.5, atol=0.0) == []
    assert only(one(1.0), one(2.0), rtol=0.5, atol=0.0)
    assert differences(one(100), one(101), rtol=0.0, atol=1.0) == []
    assert only(one(100), one(102), rtol=0.0, atol=1.0)
    for left, right in ((NAN, 1.0), (1.0, NAN), (NAN, INF), (3e38, INF)):
        assert only(one(left), one(right), rtol=1.0, atol=1e9)


# -- rare values -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_numbers_of_half_precision_may_be_complex():
    left, right = one(1 + 2j).to(torch.complex32), one(1 + 4j).to(torch.complex32)
    assert only(left, right).kind == "values"


class Refusing:
    def __eq__(self, other):
        raise ValueError("not comparable")

    __hash__ = None


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:.*quantize.*")
def test_it_never_raises_and_leaves_its_inputs_alone():
    parts = [torch.ones(2), torch.ones(3)]
    loop = Kept(ONES)
    loop.more = loop
    strange = [
        *(np.ones(2), np.float32(1), Refusing(), object(), lambda: None, range(3), {1, 2}, loop),
        *(b"bytes", NAN, complex(NAN, 1), 2**100, torch.Size([2]), torch.float32, None, ONES),
        torch.empty(2, device="meta"),
        torch.nested.nested_tensor(parts),
        torch.nested.nested_tensor(parts, layout=torch.jagged),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    ]
    for left in strange:
        for right in strange:
            assert isinstance(differences(left, right), list)
            error = largest_error(left, right)
            assert error is None or isinstance(error, float)
    assert torch.equal(ONES, torch.ones(2))


# -- the largest error -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "error"),
    [
        ({"a": ONES, "n": one(1)}, {"n": one(9), "a": ONES + 3}, 3.0),
        (one(1 + 1j), one(1 + 3j), 2.0),
        (torch.zeros(2), torch.zeros(3), None),
        (one(0), one(1), None),
        ((ONES,), ONES, None),
        (one(NAN), one(1.0), None),
    ],
)
def test_the_largest_error_is_over_all_float_outputs(left, right, error):
    assert largest_error(left, right) == error
