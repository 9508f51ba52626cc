"""inputs/regions.py: the words of ``values`` reach every leaf that asks for them, and only those."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import json
import math

import pytest
import torch
from specs import spec_of

from pytest_torchexport.config.options import REGIONS
from pytest_torchexport.explore.seeds import plain
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.domains import declared, of_argument
from pytest_torchexport.inputs.drawing import for_each
from pytest_torchexport.inputs.recipes import (
    EXTENTS,
    SPECIAL,
    Edit,
    LeafRecipe,
    Literal,
    Recipe,
    describe_recipe,
    plain_recipe,
    with_leaves,
)
from pytest_torchexport.inputs.regions import is_among, numbers_of
from pytest_torchexport.inputs.shrink import shrink
from pytest_torchexport.inputs.strategies import boundary_recipes, recipes, special_recipes
from pytest_torchexport.results.failures import SpecError

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


def test_a_number_is_told_from_others_by_its_bits():
    assert is_among(float("nan"), (0.0, math.nan))
    assert not is_among(-0.0, (0.0,))
    assert not is_among(0.0, (-0.0, math.nan))
    assert is_among(2**53 + 1, (2**53 + 1,))


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


def test_nothing_is_drawn_that_was_not_asked_for():
    def legal(recipe: Recipe) -> None:
        x, y, n = build(BOTH, recipe).args
        assert not x.isinf().any()
        assert not y.isnan().any()
        assert ((y.abs() <= 1) | y.isinf()).all()
        assert ((n >= 5) & (n <= 9) | torch.isin(n, torch.tensor(limits))).all()
        seen.update(*(str(float(v)) for v in (x.sum(), y.sum())))
        if recipe.leaves[0].kind == SPECIAL or recipe.leaves[0].edits:
            marked.append(bool(x.isnan().any()))

    limits = numbers_of(["limits"], torch.int64)
    seen: set[str] = set()
    marked: list[bool] = []
    for_each(recipes(BOTH), legal, seed=1, most=100)
    for recipe in (*boundary_recipes(BOTH, 0), *plain(BOTH, (), 0)):
        legal(recipe)
    assert any(marked)


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


def test_a_special_value_is_described_with_where_it_is():
    spec = spec_of(lambda x: x, torch.zeros(2, 3), values={"x": "edges"})
    texts = []
    for extent in EXTENTS:
        item = LeafRecipe(kind="zeros", edits=(Edit(4, math.nan, extent),))
        recipe = Recipe(sizes={}, leaves=(item,))
        texts.append(describe_recipe(spec, recipe, build(spec, recipe)).partition("] ")[2])
    assert texts == ["zeros with [1, 1]=nan", "zeros with [1, :]=nan", "zeros with all=nan"]
    whole = spec_of(lambda n: n, torch.tensor([[1, 2]]), values={"n": "limits"})
    item = LeafRecipe(kind="zeros", edits=(Edit(0, 2**63 - 1, "all"),))
    recipe = Recipe(sizes={}, leaves=(item,))
    assert "=9223372036854775807" in describe_recipe(whole, recipe, build(whole, recipe))


def test_a_literal_keeps_special_values():
    spec = spec_of(lambda x: x, torch.rand(4), values={"x": (0.0, 1.0, "nan", "inf")})
    recipe = with_leaves(
        plain_recipe(spec, "zeros", {}, 0), {0: torch.tensor([math.nan, -math.inf, 7.0, -7.0])}
    )
    built = build(spec, recipe).args[0].tolist()
    assert math.isnan(built[0])
    assert built[1:] == [-math.inf, 1.0, 0.0]


# -- shrinking -------------------------------------------------------------------------------------


def shrunk(fails, item, **options):
    spec = spec_of(lambda x: x, torch.randn(4, 3), **options)

    def still(recipe):
        return fails(build(spec, recipe).args[0])

    made = (Recipe(sizes={"batch": 4}, leaves=(item,), seed=seed) for seed in range(50))
    recipe = next(filter(still, made))
    return spec, shrink(spec, recipe, still)


def test_a_value_that_matters_shrinks_to_one_element():
    item = LeafRecipe(kind=SPECIAL, scale=3.0)
    _, found = shrunk(lambda x: bool(x.isnan().any()), item, values={"x": "edges"})
    assert repr(found.leaves[0]) == repr(LeafRecipe(kind="zeros", edits=(Edit(0, math.nan),)))
    item = LeafRecipe(kind="normal", edits=(Edit(7, -math.inf, "all"),))
    _, found = shrunk(lambda x: bool(x.isinf().any()), item, values={"x": "inf"})
    assert found.leaves[0] == LeafRecipe(kind="zeros", edits=(Edit(0, -math.inf),))


def test_a_region_that_matters_as_a_whole_stays():
    item = LeafRecipe(kind="normal", edits=(Edit(0, -0.0, "all"), Edit(1, 2.0)))
    _, found = shrunk(lambda x: bool(x.signbit().all()), item, values={"x": "zero"})
    assert found.leaves[0].edits == (Edit(0, -0.0, "all"),)


def test_values_that_matter_together_become_numbers_to_read():
    spec, found = shrunk(
        lambda x: bool(x.isnan().any() and (x == math.inf).any()),
        LeafRecipe(kind=SPECIAL),
        values={"x": "edges"},
    )
    numbers = build(spec, found).args[0]
    assert found.leaves[0].kind == "literal"
    assert isinstance(found.leaves[0].data, Literal)
    assert int((numbers == 0).sum()) >= numbers.numel() // 2


def test_what_fails_without_the_region_loses_it():
    item = LeafRecipe(kind=SPECIAL)
    _, found = shrunk(lambda x: True, item, values={"x": "edges"})
    assert found.leaves[0] == LeafRecipe(kind="zeros")


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


def test_a_tiny_number_that_the_user_declared_stays():
    spec = spec_of(lambda x: x, torch.ones(2), values={"x": (1e-40, 1.0)})
    recipe = Recipe(sizes={}, leaves=(LeafRecipe(kind="ones", edits=(Edit(0, 2e-40),)),))
    assert 0 < float(build(spec, recipe).args[0].min()) < 1e-39
