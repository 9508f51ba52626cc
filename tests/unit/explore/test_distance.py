"""explore/distance.py: how far a condition is from the other outcome."""

# ruff: noqa: ARG005, PLW0108  # a lambda is what runs under the mode, and not before it

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from watched import X, Y, behind, watched

from pytest_torchexport.explore.distance import distance, operands_of, python_distance, violation
from pytest_torchexport.explore.provenance import (
    Combined,
    Compared,
    Reduced,
    Uncompared,
    provenance_of,
)

QUICK = settings(max_examples=30, deadline=None, database=None, derandomize=True)


def test_leaves_are_the_operands_at_the_bottom():
    found = behind(lambda: ((X > 1) & ~(Y < 2)).any())
    numbers = [leaf for leaf in operands_of(found) if isinstance(leaf, int)]
    assert numbers == [1, 2]
    assert operands_of(Uncompared(5)) == [5]


# -- how far: right by construction ------------------------------------------------------------------------------

# Whole numbers and halves, so that what is compared is exact.
ENTRIES = st.integers(-6, 6).map(lambda n: n / 2)
TENSORS = st.lists(ENTRIES, min_size=6, max_size=6).map(lambda n: torch.tensor(n).reshape(2, 3))

MASKS = {
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    "==": lambda x, y: x == y,
    "!=": lambda x, y: x != y,
    "number": lambda x, y: x > 0.25,
    "row": lambda x, y: x > y[0],
    "and": lambda x, y: (x > y) & (x < 2.25),
    "or": lambda x, y: torch.logical_or(x > 1.25, y.lt(x)),
    "not": lambda x, y: ~((x > y) | (y > 1.25)),
    "isclose": lambda x, y: torch.isclose(x, y, rtol=0.0, atol=0.75),
    "any kept": lambda x, y: (x > 1.25).any(1, keepdim=True) & (y > x),
    "all kept": lambda x, y: (x > -1.25).all(dim=0, keepdim=True) | (y > x),
}
SCALARS = {
    "any": lambda mask: mask.any(),
    "all": lambda mask: mask.all(),
    "not any": lambda mask: ~mask.any(),
    "any of all": lambda mask: mask.all(1).any(),
    "all of any": lambda mask: torch.all(mask.any(dim=0)),
    "all of any, both": lambda mask: mask.any(dim=(0, 1)),
    "one": lambda mask: mask.any() & ~mask.all(),
    "truth": lambda mask: bool(mask.any()),
    "item": lambda mask: mask.all().item(),
}


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("mask", MASKS)
def test_a_violation_is_positive_just_where_the_condition_does_not_come_out(mask, scalar):
    @QUICK
    @given(TENSORS, TENSORS)
    def check(x, y):
        # Nothing is missing on the threshold itself, on neither side; so stay off it.
        y = y + 0.125 if mask not in ("==", "!=") else y
        found, mode = watched(lambda: SCALARS[scalar](MASKS[mask](x, y)))
        provenance = (
            provenance_of(found) if isinstance(found, torch.Tensor) else mode.of_number(found, True)
        )
        for wanted in (True, False):
            missing = violation(provenance, wanted)
            assert missing is not None
            if float(missing) != 0 or mask not in ("==", "!="):
                assert (float(missing) <= 0) == (bool(found) == wanted)

    check()


@pytest.mark.parametrize(
    ("function", "wanted"),
    [(torch.equal, True), (torch.equal, False), (torch.allclose, True), (torch.allclose, False)],
)
def test_a_violation_of_equal_and_allclose_has_the_right_sign(function, wanted):
    @QUICK
    @given(TENSORS, TENSORS, st.booleans())
    def check(x, y, same):
        y = x.clone() if same else y
        truth, mode = watched(function, x, y)
        missing = violation(mode.of_number(truth, True), wanted)
        assert float(missing) <= 0 if truth == wanted else float(missing) >= 0
        if truth != wanted and wanted:
            assert float(missing) > 0

    check()


@QUICK
@given(ENTRIES, st.booleans())
def test_a_number_is_true_where_it_is_not_zero(value, wanted):
    assume(value != 0)
    missing = violation(Uncompared(torch.tensor(value)), wanted)
    assert (float(missing) <= 0) == wanted
    assert float(violation(Uncompared(value), wanted)) == float(missing)
    assert float(violation(Uncompared(True), wanted)) * (1 if wanted else -1) < 0


def test_what_has_no_number_has_no_violation():
    for provenance in (
        Compared("==", "a", "b"),
        Compared(">", X, None),
        Compared(">", torch.ones(3), torch.ones(2)),
        Compared("in", 1.0, 2.0),
        Compared("==", X.to(torch.complex64), 1),
        Compared(">", X, 1),  # six of them
        Reduced("any", Compared(">", torch.empty(0), 1)),
        Compared("<", 10**400, 1),
        Uncompared(None),
        Uncompared("text"),
    ):
        assert violation(provenance, True) is None
    assert violation(Combined("and", (Uncompared(None), Uncompared(None))), True) is None


def test_integers_far_apart_stay_apart():
    big = torch.tensor(2**40)
    assert float(violation(Compared("==", big, 2**40 + 1), True)) == 1.0
    assert float(violation(Compared("<", torch.tensor(3, dtype=torch.uint8), 1), True)) == 2.0


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("sign", [">", ">=", "<", "<=", "==", "!="])
def test_a_newton_step_takes_a_linear_condition_to_the_other_side(sign, wanted):
    weight = torch.tensor([2.0, -1.0, 0.5])
    made = {
        ">": lambda s: s > 0.7,
        ">=": lambda s: s >= 0.7,
        "<": lambda s: s < 0.7,
        "<=": lambda s: s <= 0.7,
        "==": lambda s: s == 0.7,
        "!=": lambda s: s != 0.7,
    }[sign]
    for start in (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-4.0, 0.3, 1.0])):
        x = start.double().requires_grad_()
        condition, _ = watched(lambda x=x: made((x * weight).sum()))
        if bool(condition) == wanted:
            continue
        missing = violation(provenance_of(condition), wanted)
        assert float(missing.detach()) > 0
        (slope,) = torch.autograd.grad(missing, x)
        exact = sign in ("==", "!=")
        step = float(missing.detach()) * (1.0 if exact else 1.001) / float(slope.square().sum())
        moved = (x.detach() - step * slope) * weight
        truth = torch.isclose(moved.sum(), torch.tensor(0.7).double()) if exact else None
        if sign == "!=":
            truth = not truth
        assert bool(made(moved.sum()) if truth is None else truth) == wanted


def test_a_violation_of_every_element_pulls_at_each_that_is_wrong():
    x = torch.tensor([1.0, -2.0, -3.0], requires_grad=True)
    condition, _ = watched(lambda x: (x > 0).all(), x)
    missing = violation(provenance_of(condition), True)
    assert float(missing.detach()) == 5.0
    missing.backward()
    assert x.grad.tolist() == [0.0, -1.0, -1.0]


NUMBERS = (0.0, -1.5, 2.5, float("inf"), 3, 2**53 + 1, True)
SINGLE = (*NUMBERS, *(torch.tensor(number) for number in NUMBERS), torch.tensor([[2.5]]))


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">=", "==", "!="])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_distance_is_the_violation_as_a_number(sign, wanted):
    for left, right in itertools.product(SINGLE, SINGLE):
        provenance = Compared(sign, left, right)
        expected = float(violation(provenance, wanted))
        assert distance(provenance, wanted) == pytest.approx(expected, abs=0, rel=0, nan_ok=True)


def test_a_distance_of_more_than_numbers_is_that_of_their_violation():
    assert distance(Reduced("any", Compared(">", X, 5.0)), True) == 2.0
    assert distance(Compared(">", X, 5.0), True) is None
    assert distance(Compared(">", torch.tensor(1j), 5.0), True) is None
    assert distance(Compared("<", "a", 5.0), True) is None


@pytest.mark.parametrize(
    ("one", "other", "apart"), [("m²", "m³", 1.0), ("a7", "a12", 5.0), ("①", "1", 1.0)]
)
def test_texts_are_as_far_apart_as_their_numbers_and_words(one, other, apart):
    assert python_distance(one, other) == apart
