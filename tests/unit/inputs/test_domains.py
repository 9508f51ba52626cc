"""inputs/domains.py: which values are legal, and how they reach the leaves that ask for them."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import json
import math
import unittest
from functools import partial

import pytest
import torch
from hypothesis import strategies as st
from specs import spec_of

from pytest_torchexport.config.options import REGIONS
from pytest_torchexport.inputs import strategies
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.domains import (
    Domain,
    Index,
    declared,
    index_of,
    infer,
    is_among,
    numbers_of,
    of_argument,
)
from pytest_torchexport.inputs.recipes import (
    KINDS,
    Edit,
    LeafRecipe,
    Recipe,
)
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.inputs.strategies import (
    boundary_recipes,
    for_each,
    recipes,
    special_recipes,
)
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


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32], ids=str)
def test_masks_of_zeros_and_ones_stay_masks(dtype):
    kept = infer(torch.tensor([[1, 0, 0], [1, 1, 0]]).to(dtype))
    assert kept.rows_keep is True
    assert (kept.low, kept.high) == (0, 1)
    empty_row = infer(torch.tensor([[1, 0, 0], [0, 0, 0]]).to(dtype))
    assert empty_row.rows_keep is not True


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
    monkeypatch.setattr(strategies, "some", lambda *_: [0])
    spec = spec_of(lambda x: x, torch.zeros(1, dtype=torch.int32), values={"x": strategy})
    with pytest.raises(SpecError, match=match):
        for_each(recipes(spec), lambda _: None, seed=0, most=2000)


@pytest.mark.parametrize("end", [pytest.skip.Exception, unittest.SkipTest])
def test_a_strategy_may_end_the_test(end):
    def value(_):
        raise end("not here")

    with pytest.raises(end, match="not here"):
        declared(st.floats(0, 1).map(value), torch.zeros(1), "x")


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


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_denormal_numbers_of_a_type_are_between_zero_and_its_smallest_normal_one(dtype):
    tiny = torch.finfo(dtype).tiny
    numbers = numbers_of(["denormal"], dtype)
    held = torch.tensor(numbers, dtype=torch.float64).to(dtype)
    held = held.real if dtype.is_complex else held
    assert held.double().tolist() == list(numbers)
    assert all(0 < abs(number) < tiny for number in numbers)
    assert float(torch.nextafter(torch.zeros(()), torch.ones(()))) in numbers_of(
        ["denormal"], torch.float32
    )


def test_limits_are_those_of_the_type_and_of_narrower_ones():
    assert {0, 1, 254, 255} == set(numbers_of(["limits"], torch.uint8))
    assert {-(2**31), 2**31 - 1, 2**24 + 1} <= set(numbers_of(["limits"], torch.int32))
    wide = numbers_of(["limits"], torch.int64)
    assert {-(2**63), 2**63 - 1, 2**31, 2**31 - 1, -(2**31) - 1, 2**53 + 1} <= set(wide)
    assert max(numbers_of(["limits"], torch.uint64)) == 2**63 - 1


def test_each_type_has_the_words_that_mean_something_for_it():
    def words(dtype):
        return [word for word in REGIONS if numbers_of([word], dtype)]

    assert words(torch.float32) == ["nan", "inf", "zero", "denormal", "edges"]
    assert words(torch.float8_e4m3fn) == ["nan", "zero", "denormal", "edges"]
    assert words(torch.int32) == ["limits", "edges"]
    assert words(torch.bool) == []


def test_words_add_to_what_is_assumed_or_to_a_range():
    domain = declared(("nan", "inf"), torch.tensor([0.5, 0.0]), "x")
    assert (domain.low, domain.high, domain.special[1:]) == (0.0, 1.0, (math.inf, -math.inf))
    assert domain.describe() == "[0.0, 1.0] or nan, inf, -inf"
    domain = declared((-3, 3, "limits"), torch.tensor([1], dtype=torch.int8), "x")
    assert (domain.low, domain.high) == (-3, 3)
    assert set(domain.special) == {-128, -127, 126, 127}
    once = declared(("zero", "edges"), torch.zeros(2), "x")
    assert len(once.special) == len(numbers_of(["edges"], torch.float32))


@pytest.mark.parametrize(
    ("word", "example", "match"),
    [
        ("nan", torch.tensor([1]), "'x' is int64, which has no 'nan'; legal: limits, edges"),
        ("limits", torch.zeros(1), "no 'limits'; legal: nan, inf, zero, denormal, edges"),
        ("edges", torch.tensor([True]), "'x' is bool, which has no 'edges'; legal: none"),
    ],
)
def test_a_word_that_means_nothing_for_a_type_is_refused(word, example, match):
    with pytest.raises(SpecError, match=match):
        declared((word,), example, "x")


def test_python_arguments_have_regions_too():
    assert of_argument(("inf",), 0.5, "n") == [0.5, math.inf, -math.inf]
    assert of_argument((1, 5, "limits"), 3, "n")[:2] == (1, 5)
    spec = spec_of(lambda n: n, 3, values={"n": (1, 5, "limits")})
    assert {build(spec, recipe).args[0] for recipe in boundary_recipes(spec, 0)} >= {1, 5, 2**31}
    drawn = set()
    for_each(recipes(spec), lambda r: drawn.add(build(spec, r).args[0]), seed=0, most=50)
    assert {number for number in drawn if number > 5} <= set(numbers_of(["limits"], torch.int64))
    assert len(drawn & {1, 2, 3, 4, 5}) > 2
    for example in (True, "a"):
        with pytest.raises(SpecError, match="legal: none"):
            of_argument(("nan",), example, "n")


BOTH = spec_of(
    lambda x, y, n: x,
    torch.randn(3, 4),
    torch.randn(3, 4, dtype=torch.float64),
    torch.tensor([[5], [9]]),
    values={"x": "nan", "y": (-1.0, 1.0, "inf", "denormal"), "n": "limits"},
)


def test_boundary_calls_have_each_value_in_one_element_in_a_row_and_in_all():
    counts: dict[tuple[str, float], set[int]] = {}
    for recipe in boundary_recipes(BOTH, 0):
        for name, tensor in BOTH.flatten(build(BOTH, recipe)):
            leaf = next(leaf for leaf in BOTH.tensors if leaf.path == name)
            flat = tensor.reshape(-1).tolist()
            for number in leaf.domain.special:
                found = sum(is_among(value, (number,)) for value in flat)
                counts.setdefault((name, repr(number)), set()).add(found)
    for (name, number), found in counts.items():
        assert {1, 12 if name != "n" else 2} <= found, (name, number, found)
        assert 4 in found or name == "n", (name, number)


def test_special_values_of_two_inputs_meet_each_other():
    spec = spec_of(
        lambda x, y: x, torch.randn(3, 9), torch.randn(3, 9), values={"x": "inf", "y": "zero"}
    )
    mixed = [build(spec, recipe).args for recipe in special_recipes(spec, 0)][:4]
    assert sum(int((x.isinf() & (y == 0)).sum()) for x, y in mixed) > 4


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_special_values_keep_all_their_bits(dtype):
    spec = spec_of(lambda x: x, torch.randn(2, 9).to(dtype), values={"x": "edges"})
    for number in spec.leaves[0].domain.special:
        item = LeafRecipe(kind="normal", edits=(Edit(3, number),), layout="strided")
        (built,) = build(spec, Recipe(sizes={}, leaves=(item,))).args
        written = built.flatten()[3]
        assert is_among(float(written.real if dtype.is_complex else written), (number,))


def test_special_values_survive_json_and_the_report():
    for number in (math.nan, math.inf, -math.inf, 5e-324, -0.0, 2**63 - 1):
        item = LeafRecipe(kind="zeros", edits=(Edit(2, number, "row"),))
        recipe = Recipe(sizes={}, leaves=(item,))
        for data in (recipe.as_dict(), json.loads(json.dumps(recipe.as_dict()))):
            ((place, value, extent),) = Recipe.from_dict(data).leaves[0].edits
            assert (place, extent, is_among(value, (number,))) == (2, "row", True)
    data = recipe.as_dict()
    data["leaves"][0]["edits"] = [[0, "nan"]]  # as a report has it, and older versions had it
    assert repr(Recipe.from_dict(data).leaves[0].edits) == repr((Edit(0, math.nan),))


# -- without words ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_without_words_no_call_has_special_values(dtype):
    spec = spec_of(lambda x: x, torch.randn(3, 4).to(dtype))
    facts = torch.finfo(dtype)
    # Ordinary numbers of float16 may be denormal.
    smallest = facts.tiny * facts.eps if dtype == torch.float16 else facts.tiny
    seen = set()

    def ordinary(recipe: Recipe) -> None:
        (x,) = build(spec, recipe).args
        assert x.isfinite().all()
        assert not ((x == 0) & x.signbit()).any(), recipe
        assert ((x == 0) | (x.abs().double() >= smallest)).all(), recipe
        seen.update(edit.value for leaf in recipe.leaves for edit in leaf.edits)

    for_each(recipes(spec), ordinary, seed=0, most=200)
    for number in (-0.0, -1e-40, 5e-324, -1e-9):
        ordinary(Recipe(sizes={}, leaves=(LeafRecipe(kind="ones", edits=(Edit(1, number),)),)))
    assert len(seen) > 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_a_number_that_a_narrow_dtype_makes_zero_has_no_sign(dtype):
    spec = spec_of(lambda x: x, torch.ones(64, 64).to(dtype))
    found = build(spec, Recipe(sizes={}, leaves=(LeafRecipe(kind="ladder"),))).args[0].float()
    assert (found == 0).any()
    assert not (found.signbit() & (found == 0)).any()


NODES = torch.randn(6, 3)
EDGES = torch.tensor([[0, 1, 5, 2], [1, 2, 0, 4]])


def found(values, nodes=NODES):
    return index_of("i", {"x": nodes, "i": torch.as_tensor(values)})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (EDGES, Index(into="x")),
        ([[0, 3]], Index(into="x")),
        ([0, 0, 1, 2, 5], Index(into="x", ordered=True)),
        # As many as rows: labels that happen to rise.
        ([0, 0, 1, 1, 2, 5], Index(into="x")),
        ([0, 0, 1, 1, 2, 6], None),
        ([0, 2, 4], Index(into="x", ordered=True)),
        ([0, 2, 6], Index(into="x", ordered=True, whole=True)),
        ([0, 1, 2, 3], Index(into="x")),
        ([[0, 1]], None),
        ([0, 3, 9], None),
        ([-1, 3], None),
        ([0, 1, 2, 1, 2, 1], None),
        ([0.0, 2.0, 4.0], None),
    ],
)
def test_integers_just_below_the_size_of_an_input_index_it(values, expected):
    assert found(values) == expected


def calls(spec):
    for kind in (*KINDS, "example"):
        item = LeafRecipe(kind=kind, edits=(Edit(1, 5), Edit(2, 0)))
        for size in (1, 2, 6, 11):
            yield size, build(spec, Recipe(sizes={"batch": size}, leaves=(item, item), seed=3))


def test_edges_stay_between_the_nodes():
    for size, call in calls(spec_of(lambda x, edges: x, NODES, EDGES)):
        assert 0 <= int(call.args[1].min()) <= int(call.args[1].max()) < size


@pytest.mark.parametrize("last", [4, 6])
def test_offsets_stay_in_order_and_within_the_list(last):
    spec = spec_of(lambda x, offsets: x, NODES, torch.tensor([0, 2, last]))
    for size, call in calls(spec):
        offsets = call.args[1].tolist()
        assert offsets == sorted(offsets)
        assert offsets[0] == 0
        assert offsets[-1] == size if last == 6 else offsets[-1] < size


def test_a_call_that_was_recorded_beside_it_counts_too():
    more = [Call((NODES, EDGES + 9))]
    assert spec_of(lambda x, edges: x, NODES, EDGES, more=more).leaves[1].index is None
    given = spec_of(lambda x, edges: x, NODES, EDGES, values={"edges": (0, 5)})
    assert given.leaves[1].index is None  # the user has said what is legal
