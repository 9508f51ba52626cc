"""inputs/domains.py: which values are legal, and how they reach the leaves that ask for them."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import strategies as st
from specs import spec_of

from pytest_torchexport.config.options import REGIONS
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.domains import (
    Index,
    declared,
    index_of,
    infer,
    is_among,
    numbers_of,
    of_argument,
)
from pytest_torchexport.inputs.drawing import for_each
from pytest_torchexport.inputs.recipes import (
    KINDS,
    Edit,
    LeafRecipe,
    Recipe,
)
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.inputs.strategies import (
    boundary_recipes,
    recipes,
)
from pytest_torchexport.results.failures import SpecError


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32], ids=str)
def test_masks_of_zeros_and_ones_stay_masks(dtype):
    kept = infer(torch.tensor([[1, 0, 0], [1, 1, 0]]).to(dtype))
    assert kept.rows_keep is True
    assert (kept.low, kept.high) == (0, 1)
    empty_row = infer(torch.tensor([[1, 0, 0], [0, 0, 0]]).to(dtype))
    assert empty_row.rows_keep is not True


@pytest.mark.parametrize(
    ("example", "kind", "low", "high", "words"),
    [
        (torch.tensor([3, 9, 4]), "int", 3, 9, "3..9"),
        (torch.tensor([3, 9, 4]).to(torch.uint64), "int", 3, 9, "3..9"),
        (torch.tensor([-2.5, 2.5]), "float", None, None, "about +-2.5"),
        (torch.tensor([0.0, 2.0]), "float", 0.0, None, "not negative"),
        (torch.tensor([0.25, 0.75]), "float", 0.0, 1.0, "[0.0, 1.0]"),
    ],
)
def test_integers_keep_their_range_and_floats_their_sign_and_unit_interval(
    example, kind, low, high, words
):
    domain = infer(example)
    assert (domain.kind, domain.low, domain.high) == (kind, low, high)
    assert domain.describe() == words
    assert domain.rows_keep is None


@pytest.mark.parametrize(
    ("value", "example", "match"),
    [
        ((0, 256), torch.zeros(1, dtype=torch.uint8), "'x' is uint8, which cannot hold 256"),
        ((0.5, 2), torch.zeros(1, dtype=torch.int64), "int64, which cannot hold 0.5"),
        ([300], torch.zeros(1, dtype=torch.int8), r"cannot hold 300; legal: -128\.\.127"),
        ([1e300], torch.zeros(1), r"cannot hold 1e\+300; legal: -3.4.*e\+38\.\.3.4"),
        ([2], torch.zeros(1, dtype=torch.bool), r"bool, which cannot hold 2; legal: 0\.\.1"),
        ([1j], torch.zeros(1), "'x'"),
        ([None], torch.zeros(1), "None is no number"),
        (("nan",), torch.tensor([1]), "'x' is int64, which has no 'nan'; legal: limits, edges"),
        (("edges",), torch.tensor([True]), "'x' is bool, which has no 'edges'; legal: none"),
        (st.integers(200, 300), torch.zeros(1, dtype=torch.int8), "which cannot hold 2"),
        (st.floats(0, 1).map(lambda _: 1 / 0), torch.zeros(1), "'x' raised ZeroDivisionError"),
        ((0.2, 0.7), 3, "'x' is an int"),
        ((0, 2**2000), 0.5, "'x' is no int"),
        (st.nothing(), 3, "the strategy of 'x' gives no value"),
        (("nan",), True, "legal: none"),
        (("nan",), "a", "legal: none"),
    ],
)
def test_values_that_the_tensor_or_the_argument_cannot_hold_are_refused(value, example, match):
    read = declared if isinstance(example, torch.Tensor) else of_argument
    with pytest.raises(SpecError, match=match):
        read(value, example, "x")


LEFT_OUT = [[False, False, True], [False, True, True]]


def test_a_mask_that_is_true_where_something_is_left_out_leaves_something():
    assert infer(torch.tensor(LEFT_OUT)).rows_keep is False
    assert infer(torch.zeros(2, 3, dtype=torch.bool)).rows_keep is False
    assert infer(~torch.tensor(LEFT_OUT)).rows_keep is True
    assert infer(torch.zeros(3, dtype=torch.bool)).rows_keep is None  # flags, one per row


def test_a_mask_that_is_added_stays_one():
    low = -math.inf
    domain = infer(torch.tensor([[0.0, low, 0.0], [0.0, 0.0, low]]))
    assert (domain.choices, domain.rows_keep) == ((0.0, low), False)
    assert domain.describe() == f"one of 0.0, {low}, a zero in each row"
    assert infer(torch.tensor([[0.0, -2.0], [-2.0, 0.0]])).choices == ()
    assert infer(torch.tensor([[0.0, low], [-1.0, 0.0]])).choices == ()


@pytest.mark.parametrize(("below", "above"), [(0.0, -math.inf), (True, False), (1, 0)])
def test_a_causal_mask_stays_causal(below, above):
    inside = torch.ones(4, 4, dtype=torch.bool).tril()
    mask = torch.where(inside, torch.tensor(below), torch.tensor(above))
    assert infer(mask.expand(2, 1, 4, 4)).triangle == (below, above)
    assert infer(mask).describe() == f"{above} above the diagonal and {below} elsewhere"
    assert infer(mask[:2]).triangle is infer(mask.flip(0)).triangle is None
    assert infer(mask[:2, :2]).triangle is None  # may be one by chance


def test_each_type_has_the_words_and_numbers_that_mean_something_for_it():
    def words(dtype):
        return [word for word in REGIONS if numbers_of([word], dtype)]

    assert words(torch.float32) == ["nan", "inf", "zero", "denormal", "edges"]
    assert words(torch.float8_e4m3fn) == ["nan", "zero", "denormal", "edges"]
    assert words(torch.int32) == ["limits", "edges"]
    assert words(torch.bool) == []
    assert {0, 1, 254, 255} == set(numbers_of(["limits"], torch.uint8))
    wide = {-(2**63), 2**63 - 1, 2**31, 2**31 - 1, -(2**31) - 1, 2**53 + 1}
    assert wide <= set(numbers_of(["limits"], torch.int64))
    assert max(numbers_of(["limits"], torch.uint64)) == 2**63 - 1


def test_python_arguments_have_regions_too():
    assert of_argument(("inf",), 0.5, "n") == [0.5, math.inf, -math.inf]
    assert of_argument((1, 5, "limits"), 3, "n")[:2] == (1, 5)
    spec = spec_of(lambda n: n, 3, values={"n": (1, 5, "limits")})
    assert {build(spec, recipe).args[0] for recipe in boundary_recipes(spec, 0)} >= {1, 5, 2**31}
    drawn = set()
    for_each(recipes(spec), lambda r: drawn.add(build(spec, r).args[0]), seed=0, most=50)
    assert drawn <= {1, 2, 3, 4, 5, *numbers_of(["limits"], torch.int64)}


BOTH = spec_of(
    lambda x, y, n: x,
    torch.randn(3, 4),
    torch.randn(3, 4, dtype=torch.float64),
    torch.tensor([[5], [9]]),
    values={"x": "nan", "y": (-1.0, 1.0, "inf", "denormal"), "n": "limits"},
)


def test_boundary_calls_have_each_value_in_one_element_in_a_row_and_in_all():
    calls = [build(BOTH, recipe).args for recipe in boundary_recipes(BOTH, 0)]
    for position, leaf in enumerate(BOTH.tensors):
        for number in leaf.domain.special:
            found = {
                sum(is_among(value, (number,)) for value in call[position].flatten().tolist())
                for call in calls
            }
            assert {1, leaf.shape[-1].evaluate({}), leaf.example.numel()} <= found, leaf.path


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.complex64], ids=str)
def test_special_values_keep_all_their_bits(dtype):
    spec = spec_of(lambda x: x, torch.randn(2, 9).to(dtype), values={"x": "edges"})
    for number in spec.leaves[0].domain.special:
        item = LeafRecipe(kind="normal", edits=(Edit(3, number),), layout="strided")
        (built,) = build(spec, Recipe(sizes={}, leaves=(item,))).args
        written = built.flatten()[3]
        assert is_among(float(written.real if dtype.is_complex else written), (number,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_without_words_no_call_has_special_values(dtype):
    spec = spec_of(lambda x: x, torch.randn(3, 4).to(dtype))
    facts = torch.finfo(dtype)
    # Ordinary numbers of float16 may be denormal.
    smallest = facts.tiny * facts.eps if dtype == torch.float16 else facts.tiny

    def ordinary(recipe: Recipe) -> None:
        (x,) = build(spec, recipe).args
        assert x.isfinite().all()
        assert not ((x == 0) & x.signbit()).any(), recipe
        assert ((x == 0) | (x.abs().double() >= smallest)).all(), recipe

    for_each(recipes(spec), ordinary, seed=0, most=200)
    for number in (-0.0, -1e-40, 5e-324, -1e-9):
        ordinary(Recipe(sizes={}, leaves=(LeafRecipe(kind="ones", edits=(Edit(1, number),)),)))


NODES = torch.randn(6, 3)
EDGES = torch.tensor([[0, 1, 5, 2], [1, 2, 0, 4]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (EDGES, Index(into="x")),
        ([0, 0, 1, 2, 5], Index(into="x", ordered=True)),
        # As many as rows: labels that happen to rise.
        ([0, 0, 1, 1, 2, 5], Index(into="x")),
        ([0, 2, 6], Index(into="x", ordered=True, whole=True)),
        ([[0, 1]], None),
        ([0, 3, 9], None),
        ([-1, 3], None),
        ([0.0, 2.0, 4.0], None),
    ],
)
def test_integers_just_below_the_size_of_an_input_index_it(values, expected):
    assert index_of("i", {"x": NODES, "i": torch.as_tensor(values)}) == expected


def test_a_count_beside_integers_may_be_offsets_and_beside_floats_is_none():
    ids, count = torch.tensor([7, 9, 7]), torch.arange(3)
    assert index_of("o", {"ids": ids, "o": count}) == Index(into="ids", ordered=True)
    assert index_of("o", {"x": torch.ones(3), "o": count}) != Index(into="x", ordered=True)


@pytest.mark.parametrize("last", [4, 6])
def test_offsets_stay_in_order_and_within_the_list(last):
    spec = spec_of(lambda x, offsets: x, NODES, torch.tensor([0, 2, last]))
    for kind, size in itertools.product((*KINDS, "example"), (1, 2, 6, 11)):
        item = LeafRecipe(kind=kind, edits=(Edit(1, 5), Edit(2, 0)))
        call = build(spec, Recipe(sizes={"batch": size}, leaves=(item, item), seed=3))
        offsets = call.args[1].tolist()
        assert offsets == sorted(offsets)
        assert offsets[0] == 0
        assert offsets[-1] == size if last == 6 else offsets[-1] < size


def test_a_call_that_was_recorded_beside_it_counts_too():
    more = [Call((NODES, EDGES + 9))]
    assert spec_of(lambda x, edges: x, NODES, EDGES, more=more).leaves[1].index is None
    given = spec_of(lambda x, edges: x, NODES, EDGES, values={"edges": (0, 5)})
    assert given.leaves[1].index is None  # the user has said what is legal


@pytest.mark.parametrize(
    ("numbers", "ends"),
    [([0, 0], (0, 255)), ([3, 200], (0, 255)), ([0, 20], (0, 20)), ([0, 1], (0, 1))],
)
def test_bytes_are_those_of_an_image_unless_they_are_few_small_ones(numbers, ends):
    domain = infer(torch.tensor(numbers, dtype=torch.uint8))
    assert (domain.low, domain.high) == ends
    others = infer(torch.tensor(numbers, dtype=torch.int32))
    assert (others.low, others.high) == (min(numbers), max(numbers))
