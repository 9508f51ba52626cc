"""inputs/domains.py: which values are legal."""

from __future__ import annotations

import math
import unittest
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from specs import spec_of

from pytest_torchexport.inputs import drawing
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.domains import Domain, declared, infer, of_argument
from pytest_torchexport.inputs.drawing import for_each
from pytest_torchexport.inputs.strategies import boundary_recipes, recipes
from pytest_torchexport.results.failures import SpecError

INTEGERS = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_stay_within_the_examples_own_range(dtype):
    domain = infer(torch.tensor([3, 9, 4]).to(dtype))
    assert (domain.kind, domain.low, domain.high) == ("int", 3, 9)
    assert domain.rows_keep is None


def test_integers_at_the_ends_of_int64():
    domain = infer(torch.tensor([-(2**63), 2**63 - 1]))
    assert (domain.low, domain.high) == (-(2**63), 2**63 - 1)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32], ids=str)
def test_masks_of_zeros_and_ones_stay_masks(dtype):
    kept = infer(torch.tensor([[1, 0, 0], [1, 1, 0]]).to(dtype))
    assert kept.rows_keep is True
    assert (kept.low, kept.high) == (0, 1)
    empty_row = infer(torch.tensor([[1, 0, 0], [0, 0, 0]]).to(dtype))
    assert empty_row.rows_keep is not True


def test_all_ones_of_bool_keep_one_too():
    assert infer(torch.ones(2, 3, dtype=torch.bool)).rows_keep


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([-1.0, 2.0], None, None),
        ([0.0, 2.0], 0.0, None),
        ([0.25, 0.75], 0.0, 1.0),
        ([-0.0, 0.5], 0.0, 1.0),
        ([5.0, 7.0], 0.0, None),
    ],
)
def test_floats_keep_their_sign_and_unit_interval(values, low, high):
    domain = infer(torch.tensor(values))
    assert (domain.kind, domain.low, domain.high) == ("float", low, high)


def test_floats_keep_their_scale():
    assert infer(torch.full((4,), 300.0)).scale == pytest.approx(300.0)
    assert infer(torch.zeros(4)).scale == 1.0
    assert infer(torch.full((4,), 1e30)).scale == pytest.approx(1e30)


def test_nan_and_infinity_in_the_example_do_not_reach_the_domain():
    domain = infer(torch.tensor([math.nan, math.inf, -math.inf, 2.0]))
    assert (domain.low, domain.high) == (0.0, None)
    assert domain.scale == pytest.approx(2.0)
    nothing = infer(torch.full((3,), math.nan))
    assert (nothing.low, nothing.high, nothing.scale) == (None, None, 1.0)


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
RARE = (torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.complex128)


@pytest.mark.parametrize("dtype", [*FLOATS, *RARE], ids=str)
def test_every_float_type_has_a_domain(dtype):
    domain = infer(torch.tensor([-1.0, 2.0]).to(dtype))
    assert domain.kind == "float"
    assert domain.low is None
    assert math.isfinite(domain.scale)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool], ids=str)
def test_empty_examples_have_a_domain(dtype):
    domain = infer(torch.empty(0, 3, dtype=dtype))
    assert domain.rows_keep is None
    assert domain.describe()


def test_a_pair_is_an_inclusive_range():
    domain = declared((-1.0, 1.0), torch.randn(3), "x")
    assert (domain.low, domain.high, domain.declared) == (-1.0, 1.0, True)
    domain = declared((0, 99), torch.tensor([1]), "x")
    assert (domain.low, domain.high) == (0, 99)
    domain = declared((0.0, 99.0), torch.tensor([1]), "x")
    assert (domain.low, domain.high) == (0, 99)
    assert isinstance(domain.high, int)


def test_an_infinite_end_is_open():
    domain = declared((0.0, math.inf), torch.randn(3), "x")
    assert (domain.low, domain.high) == (0.0, None)


def test_a_declared_domain_drops_what_was_only_seen():
    domain = declared([0, 1], torch.ones(2, 3, dtype=torch.int64), "x")
    assert domain.rows_keep is None
    assert domain.choices == (0, 1)


@pytest.mark.parametrize(
    ("value", "example", "match"),
    [
        ((0, 256), torch.zeros(1, dtype=torch.uint8), "'x' is uint8, which cannot hold 256"),
        ((-1, 1), torch.zeros(1, dtype=torch.uint8), "cannot hold -1"),
        ((0.5, 2), torch.zeros(1, dtype=torch.int64), "holds integers"),
        ((0, math.inf), torch.zeros(1, dtype=torch.int64), "'x'"),
        ((-math.inf, 0), torch.zeros(1, dtype=torch.int64), "'x'"),
        ([300], torch.zeros(1, dtype=torch.int8), r"cannot hold 300; legal: -128\.\.127"),
        ([2**70], torch.zeros(1, dtype=torch.int64), r"int64.*cannot hold .* legal: -9\d*\.\.9"),
        ([2**2000], torch.zeros(1, dtype=torch.int64), "cannot hold"),
        ([2**2000], torch.zeros(1), "float32, which cannot hold"),
        ([1e300], torch.zeros(1), r"cannot hold 1e\+300; legal: -3.4.*e\+38\.\.3.4"),
        ([1e300j], torch.zeros(1, dtype=torch.complex64), "complex64, which cannot hold"),
        ([1e9], torch.zeros(1, dtype=torch.half), r"legal: -65504.0\.\.65504.0"),
        ((0.0, 1e300), torch.zeros(1), "cannot hold"),
        ((0, 2**2000), torch.zeros(1), "cannot hold"),
        ([2], torch.zeros(1, dtype=torch.bool), r"bool, which cannot hold 2; legal: 0\.\.1"),
        (st.just(2.0**128), torch.zeros(1), "cannot hold"),
        ([0.5], torch.zeros(1, dtype=torch.int64), "cannot hold 0.5"),
        ([math.nan], torch.zeros(1, dtype=torch.int64), "'x'"),
        ([math.inf], torch.zeros(1, dtype=torch.int64), "'x'"),
        ([1j], torch.zeros(1, dtype=torch.int64), "'x'"),
        ([1j], torch.zeros(1), "'x'"),
        (["a"], torch.zeros(1), "'a' is no number"),
        ([None], torch.zeros(1), "None is no number"),
        ([torch.ones(2)], torch.zeros(1), "is no number"),
        (st.text(), torch.zeros(1), "is no number"),
        (st.integers(200, 300), torch.zeros(1, dtype=torch.int8), "which cannot hold 2"),
        (st.nothing(), torch.zeros(1), "the strategy of 'x' gives no value"),
        (st.floats().filter(lambda _: False), torch.zeros(1), "gives no value"),
        (st.floats(0, 1).map(lambda _: 1 / 0), torch.zeros(1), "'x' raised ZeroDivisionError"),
    ],
)
def test_values_that_the_tensor_cannot_hold_are_refused(value, example, match):
    with pytest.raises(SpecError, match=match):
        declared(value, example, "x")


@pytest.mark.parametrize(
    ("value", "example", "match"),
    [
        ((0.2, 0.7), 3, "'n' is an int"),
        ((0, math.inf), 3, "'n' is an int"),
        ((0, 2**2000), 0.5, "'n' is no int"),
        (st.nothing(), 3, "the strategy of 'n' gives no value"),
        (st.integers().map(lambda n: n / 0), 3, "the strategy of 'n' raised ZeroDivisionError"),
    ],
)
def test_values_that_an_argument_cannot_have_are_refused(value, example, match):
    with pytest.raises(SpecError, match=match):
        of_argument(value, example, "n")


@pytest.mark.parametrize(
    ("value", "example"),
    [
        ([2**70, math.inf], torch.zeros(1)),
        ([2**70], torch.zeros(1) * 1j),
        ((0, 2**70), torch.zeros(1)),
        ([1], torch.ones(1) > 0),
    ],
)
def test_values_that_the_tensor_can_hold_are_taken(value, example):
    spec = spec_of(lambda x: x, example, values={"x": value})
    for recipe in boundary_recipes(spec, seed=0):
        assert build(spec, recipe) is not None


def raises_above(limit, value):
    if value > limit:
        raise KeyError("too large")
    return value


@pytest.mark.parametrize(
    ("strategy", "match"),
    [
        (st.integers(0, 10**9).map(partial(raises_above, 10**9 - 100)), "'x' raised KeyError"),
        (st.integers(0, 2**31 + 50), "'x' is int32, which cannot hold 2147483"),
    ],
    ids=["raises", "too large"],
)
def test_what_a_strategy_gives_only_later_is_told_too(monkeypatch, strategy, match):
    monkeypatch.setattr(drawing, "some", lambda *_: [0])
    spec = spec_of(lambda x: x, torch.zeros(1, dtype=torch.int32), values={"x": strategy})
    with pytest.raises(SpecError, match=match):
        for_each(recipes(spec), lambda _: None, seed=0, most=2000)


@pytest.mark.parametrize("end", [pytest.skip.Exception, unittest.SkipTest])
def test_a_strategy_may_end_the_test(end):
    def value(_):
        raise end("not here")

    with pytest.raises(end, match="not here"):
        declared(st.floats(0, 1).map(value), torch.zeros(1), "x")


def test_a_strategy_may_give_numbers_of_numpy():
    domain = declared(st.floats(0, 1, width=32).map(np.float32), torch.zeros(1), "x")
    assert all(isinstance(choice, float) for choice in domain.choices)


def test_domains_describe_themselves():
    assert Domain(kind="int", low=0, high=99).describe() == "0..99"
    assert Domain(kind="float", low=0.0, high=1.0).describe() == "[0.0, 1.0]"
    assert Domain(kind="float", low=0.0).describe() == "not negative"
    assert Domain(kind="float", choices=(1, 2)).describe() == "one of 1, 2"
    assert Domain(kind="bool").describe() == "False or True"
    assert "a True in each row" in Domain(kind="bool", rows_keep=True).describe()
    assert Domain(kind="float", scale=2.5).describe() == "about +-2.5"
    assert Domain(kind="float", elements=object()).describe() == "from a strategy"


def test_several_examples_have_one_domain():
    domain = infer(torch.tensor([3, 4]), torch.tensor([[1, 9]]))
    assert (domain.low, domain.high) == (1, 9)
    assert infer(torch.rand(3), torch.randn(2, 9)).low is None
    assert infer(torch.ones(2, 2), torch.tensor([[0.0, 1.0]])).rows_keep
    assert infer(torch.ones(2, 2), torch.zeros(1, 2)).rows_keep is None


LEFT_OUT = [[False, False, True], [False, True, True]]


def test_a_mask_that_is_true_where_something_is_left_out_leaves_something():
    assert infer(torch.tensor(LEFT_OUT)).rows_keep is False
    assert infer(torch.zeros(2, 3, dtype=torch.bool)).rows_keep is False
    assert infer(torch.tensor([[True, False], [False, False]])).rows_keep is False
    assert infer(~torch.tensor(LEFT_OUT)).rows_keep is True
    assert infer(torch.zeros(3, dtype=torch.bool)).rows_keep is None  # flags, one per row


@pytest.mark.parametrize("low", [-math.inf, -1e9, torch.finfo(torch.float32).min])
def test_a_mask_that_is_added_stays_one(low):
    domain = infer(torch.tensor([[0.0, low, 0.0], [0.0, 0.0, low]]))
    assert (domain.choices, domain.rows_keep) == ((0.0, low), False)
    assert domain.describe() == f"one of 0.0, {low}, a zero in each row"
    assert infer(torch.tensor([[0.0, -2.0], [-2.0, 0.0]])).choices == ()
    assert infer(torch.tensor([[0.0, low], [-1.0, 0.0]])).choices == ()


@pytest.mark.parametrize(
    ("below", "above"), [(0.0, -math.inf), (True, False), (False, True), (1, 0), (1.0, 0.0)]
)
def test_a_causal_mask_stays_causal(below, above):
    inside = torch.ones(4, 4, dtype=torch.bool).tril()
    mask = torch.where(inside, torch.tensor(below), torch.tensor(above))
    assert infer(mask.expand(2, 1, 4, 4)).triangle == (below, above)
    assert infer(mask).describe() == f"{above} above the diagonal and {below} elsewhere"
    assert infer(mask[:2]).triangle is infer(mask.flip(0)).triangle is None
    assert infer(mask[:2, :2]).triangle is None  # may be one by chance
