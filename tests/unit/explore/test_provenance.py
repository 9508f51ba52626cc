"""explore/provenance.py: what a condition was computed from."""

# ruff: noqa: ARG005  # the parameters are those of all rows

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from watched import X, Y, behind, watched

from pytest_torchexport.explore.provenance import (
    Combined,
    Compared,
    ProvenanceMode,
    provenance_of,
    sequence_distance,
    violation,
)

QUICK = settings(max_examples=30, deadline=None, database=None, derandomize=True)


MADE = {
    "operators": lambda x, y: x > y,
    "methods": lambda x, y: x.gt(y),
    "named operands": lambda x, y: torch.gt(x, other=y),
}


@pytest.mark.parametrize("spelled", MADE)
def test_a_comparison_is_known_however_it_is_spelled(spelled):
    found = behind(MADE[spelled], X, Y)
    assert isinstance(found, Compared)
    assert (found.operator, found.left is X, found.right is Y) == (">", True, True)


def test_numbers_drawn_from_tensors_are_known_by_identity():
    drawn, mode = watched(lambda: [X[0, 0].item(), int(X[1, 0]), float(X[0, 2]), bool(X[1, 1])])
    for value, truth in zip(drawn, (1.0, 3, 0.5, False), strict=True):
        assert value == truth
        provenance = mode.of_number(value, True)
        assert provenance.truth
        assert provenance.left.item() == truth
    assert mode.of_number(float("7.5"), True) is None
    assert mode.of_number(1e300 * 0.5 * 2, False) is None
    assert mode.last().left.item() == 0.0
    mode.forget()
    assert mode.of_number(drawn[0], True) is None
    assert mode.last() is None


def test_small_integers_are_taken_for_drawn_only_where_the_source_says_so():
    drawn, mode = watched(lambda: (X > 0).sum().item())
    assert drawn == 3
    assert mode.of_number(3, False) is None
    assert mode.of_number(3, True) is not None
    assert mode.of_number(True, True) is None


def test_a_truth_that_was_asked_for_is_told():
    asked: list[bool] = []
    with ProvenanceMode(asked.append) as mode:
        if X.sum() > 1:
            bool((X > 9).any())
        with mode.paused():
            bool(X[0, 0])
        X[0, 0].item()
    assert asked == [True, False]


def test_what_was_written_to_is_not_what_it_was():
    def written():
        mask = X > 0
        mask &= Y > 0
        return mask

    def filled():
        mask = X > 0
        mask[0] = True
        return mask

    for function in (written, filled):
        assert behind(function).truth


# Functions of torch, as one may call them: what they return is theirs, whatever is remembered.
CALLS = {
    "equal": lambda: torch.equal(X, other=Y),
    "equal shapes": lambda: torch.equal(X, Y[0]),
    "allclose": lambda: torch.allclose(input=X, other=Y, rtol=0.5, atol=1.0),
    "allclose complex": lambda: X.to(torch.complex64).allclose(Y.to(torch.complex64)),
    "isclose": lambda: torch.isclose(X, other=Y, equal_nan=True).all(),
    "any none": lambda: torch.any(X > 0, dim=None),
    "all keepdim": lambda: (X > 0).all(-1, True),
    "any out": lambda: torch.any(X > 0, 0, out=torch.empty(3, dtype=torch.bool)),
    "index": lambda: [5, 6, 7][torch.tensor(1)],
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_return_what_they_do_without_being_watched(name):
    plain, (found, _) = CALLS[name](), watched(CALLS[name])
    same = torch.equal(plain, found) if isinstance(plain, torch.Tensor) else plain == found
    assert same
    assert type(plain) is type(found)


def test_what_raises_raises_the_same():
    with pytest.raises(RuntimeError) as plain:
        bool(X > 0)
    mode = ProvenanceMode(lambda outcome: None)
    with mode, pytest.raises(RuntimeError) as caught:
        bool(X > 0)
    assert (str(caught.value), mode.raised) == (str(plain.value), True)


def test_what_is_asked_of_a_tensor_subclass_stays_its_own():
    class Own(torch.Tensor):
        pass

    own = torch.ones(2).as_subclass(Own)
    found, _ = watched(lambda own: (own > 0).any(), own)
    assert type(found) is Own
    assert provenance_of(found).operator == "any"


def test_what_is_computed_aside_passes_by():
    mode = ProvenanceMode(lambda outcome: None)
    with mode:
        with mode.paused():
            passed = X > 0
            with pytest.raises(RuntimeError):
                X @ X
        told = X > 0
    found = provenance_of(passed)
    assert (found.truth, found.left is passed, mode.raised) == (True, True, False)
    assert provenance_of(told).operator == ">"


# -- how far: right by construction ------------------------------------------------------------------------------

# Whole numbers and halves, so that what is compared is exact.
ENTRIES = st.integers(-6, 6).map(lambda n: n / 2)
TENSORS = st.lists(ENTRIES, min_size=6, max_size=6).map(lambda n: torch.tensor(n).reshape(2, 3))

MASKS = {
    ">": lambda x, y: x > y,
    "<": lambda x, y: x < y,
    "==": lambda x, y: x == y,
    "!=": lambda x, y: x != y,
    "number": lambda x, y: x > 0.25,
    "and": lambda x, y: (x > y) & (x < 2.25),
    "not": lambda x, y: ~((x > y) | (y > 1.25)),
    "isclose": lambda x, y: torch.isclose(x, y, rtol=0.0, atol=0.75),
    "any kept": lambda x, y: (x > 1.25).any(1, keepdim=True) & (y > x),
}
SCALARS = {
    "any": lambda mask: mask.any(),
    "all": lambda mask: mask.all(),
    "all of any": lambda mask: torch.all(mask.any(dim=0)),
    "one": lambda mask: mask.any() & ~mask.all(),
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


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("function", [torch.equal, torch.allclose])
def test_a_violation_of_equal_and_allclose_has_the_right_sign(function, wanted):
    @QUICK
    @given(TENSORS, TENSORS, st.booleans())
    def check(x, y, same):
        truth, mode = watched(function, x, x.clone() if same else y)
        missing = float(violation(mode.of_number(truth, True), wanted))
        assert missing <= 0 if truth == wanted else missing >= 0
        assert missing > 0 or truth == wanted or not wanted

    check()


def test_what_has_no_number_has_no_violation():
    for provenance in (
        Compared("==", "a", "b"),
        Compared(">", X, None),
        Compared(">", torch.ones(3), torch.ones(2)),
        Compared("in", 1.0, 2.0),
        Compared("==", X.to(torch.complex64), 1),
        Compared(">", X, 1),  # six of them
        Combined("any", (Compared(">", torch.empty(0), 1),)),
        Compared("<", 10**400, 1),
        Compared.of_truth(None),
        Compared.of_truth("text"),
    ):
        assert violation(provenance, True) is None
    assert (
        violation(Combined("and", (Compared.of_truth(None), Compared.of_truth(None))), True) is None
    )


def test_rows_of_numbers_are_as_far_apart_as_their_elements_together():
    assert sequence_distance([1, 2.0], [1, 5]) == 3.0
    assert sequence_distance((17, 230), (16, 200)) == 31.0
    for left, right in (([1], (1,)), ([1], [1, 2]), ("a", "b"), (["a"], ["b"])):
        assert sequence_distance(left, right) is None
