"""inputs/building.py: a recipe makes a legal call, always the same one."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from specs import sizes_of, spec_of, within
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from pytest_torchexport.inputs.building import build, build_leaves, readable
from pytest_torchexport.inputs.recipes import (
    KINDS,
    LAYOUTS,
    SCALES,
    SWITCHED,
    Edit,
    LeafRecipe,
    Literal,
    Recipe,
    describe_recipe,
    example_recipe,
    plain_recipe,
    recorded_recipes,
    with_leaves,
)
from pytest_torchexport.inputs.spec import Call


def one(x):
    return x


def make(spec, item, sizes=None, seed=3):
    """The only argument of the call of one leaf recipe."""
    sizes = sizes or {name: dim.example for name, dim in spec.dims.items()}
    call = build(spec, Recipe(sizes=sizes, leaves=(item,), seed=seed))
    assert call is not None
    return call.args[0]


UNSIGNED = (torch.uint16, torch.uint64)
# An example, and the user's values for it.
NUMBERS = [[-1.0, 2.0], [0.5, 0.0]]
WITHIN = (None, (-0.5, 2.0), (-3.0, -1.0), (0.7, 0.7), (5.0, math.inf), (-math.inf, -5.0))
WHOLE = [[2, 5], [3, 3]]
ENDS = ((-(2**63), 2**63 - 1), (2**62, 2**63 - 1), (-(2**63), -1))
EXAMPLES = [
    *((NUMBERS, torch.float32, values) for values in (*WITHIN, [0.25, 7.0])),
    *((NUMBERS, torch.float16, values) for values in (None, (-0.5, 2.0))),
    *(([row] * 2, torch.float32, None) for row in ([0.0, 3.0], [0.25, 0.5], [0.0, 1.0])),
    *((WHOLE, torch.int64, values) for values in (None, (0, 5), (2, 2), [1, 4])),
    *((WHOLE, dtype, values) for dtype in (torch.uint8, *UNSIGNED) for values in (None, (1, 9))),
    *(([[low, high], [low, low]], torch.int64, None) for low, high in ENDS),
    *(([[1 + 2j, -3j]] * 2, dtype, None) for dtype in (torch.complex64, torch.complex32)),
    ([[60000.0, -60000.0]], torch.float16, None),
]


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize(("numbers", "dtype", "values"), EXAMPLES, ids=str)
def test_every_kind_of_recipe_is_legal(numbers, dtype, values):
    example = torch.tensor(numbers).to(dtype)
    spec = spec_of(one, example, **({} if values is None else {"values": {"x": values}}))
    (leaf,) = spec.leaves
    assert describe_recipe(spec, example_recipe(spec), spec.example).startswith(
        f"x={str(dtype)[6:]}["
    )
    for kind, scale, size in itertools.product(KINDS, SCALES, (1, 2, 4)):
        tensor = make(spec, LeafRecipe(kind=kind, scale=scale), {"batch": size})
        assert (tensor.dtype, tensor.shape) == (example.dtype, (size, 2))
        if example.is_complex():
            assert bool(torch.isfinite(torch.view_as_real(tensor).float()).all())
        else:
            numbers = tensor.to(torch.int64) if example.dtype in UNSIGNED else tensor
            assert within(numbers, leaf.domain), (kind, scale, tensor)
            assert not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def test_edits_are_put_at_their_place_modulo_the_size_and_stay_legal():
    spec = spec_of(one, torch.zeros(2, 3), values={"x": (-1.0, 1.0)})
    tensor = make(
        spec, LeafRecipe(kind="zeros", edits=(Edit(1, 0.5), Edit(6 + 4, 99.0), Edit(2, -99.0)))
    )
    assert tensor.tolist() == [[0.0, 0.5, -1.0], [0.0, 1.0, 0.0]]


def test_layouts_change_strides_and_never_values():
    x = torch.randn(2, 3, 4, 5)
    spec = spec_of(one, x)
    for kind in KINDS:
        plain, strided, last = (make(spec, LeafRecipe(kind=kind, layout=name)) for name in LAYOUTS)
        assert plain.is_contiguous()
        assert not strided.is_contiguous()
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(plain, strided)
        assert torch.equal(plain, last)


def test_the_same_recipe_makes_the_same_call_whatever_the_global_seed():
    spec = spec_of(lambda x, y: x, torch.randn(2, 3), torch.randn(2, 3))
    recipe = plain_recipe(spec, "normal", {"batch": 4}, 5)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = build(spec, recipe)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    second = build(spec, recipe)
    assert all(map(torch.equal, first.args, second.args))
    assert not torch.equal(first.args[0], first.args[1])


@pytest.mark.parametrize(
    ("example", "values", "literal", "legal"),
    [
        (torch.rand(3), (-1.0, 2.0), [-5.0, 0.5, 7.0], [-1.0, 0.5, 2.0]),
        (torch.tensor([1, 2, 3]), [1, 4], [0, 3, 9], [1, 4, 4]),
    ],
)
def test_a_literal_is_made_legal(example, values, literal, legal):
    spec = spec_of(one, example, values={"x": values})
    item = LeafRecipe(kind="literal", data=Literal(torch.tensor(literal, dtype=example.dtype)))
    assert make(spec, item).tolist() == legal


def test_stored_recipes_of_another_version_or_spec_are_left_out():
    spec = spec_of(lambda x, n: x, torch.randn(2), 4, dims={"batch": (1, 5)})
    good = with_leaves(example_recipe(spec), {0: torch.ones(2)})
    fewer = Recipe(sizes={"batch": 2}, leaves=good.leaves[:1])
    larger = Recipe(sizes={"batch": 6}, leaves=good.leaves)
    literal = good.as_dict()
    literal["leaves"][0]["data"]["literal"]["base64"] = "broken"
    described = with_leaves(example_recipe(spec), {1: object()})
    stored = [{}, {"sizes": 3}, fewer.as_dict(), literal, larger.as_dict(), described.as_dict()]
    assert readable(spec, [*stored, good.as_dict()]) == [good]


def test_recorded_calls_are_made_with_their_own_values_and_sizes():
    x, y, z = torch.randn(2, 3), torch.randn(4, 3), torch.randn(9, 3)
    spec = spec_of(one, x, more=[Call((y,)), Call((z,))], dims={"batch": (1, 8)})
    (recipe,) = recorded_recipes(spec)  # z has a size that the user declared to be illegal
    assert torch.equal(build(spec, recipe).args[0], y)
    assert "as recorded" in describe_recipe(spec, recipe, build(spec, recipe))
    assert recorded_recipes(spec_of(one, x)) == []
    other = dataclasses.replace(recipe, leaves=(LeafRecipe(kind="recorded", data=5),))
    assert readable(spec, [other.as_dict()]) == []


MASKS = {
    "causal": torch.full((4, 4), -math.inf).triu(1),
    "added": torch.tensor([[0.0, -math.inf, 0.0], [0.0, 0.0, -math.inf]]),
    "padding": torch.tensor([[False, False, True], [False, True, True]]),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_leave_something_of_each_row_and_stay_causal(name):
    spec = spec_of(one, MASKS[name], shapes={"x": "n n" if name == "causal" else "b n"})
    edits = (Edit(0, 1.0), Edit(1, 1.0), Edit(2, -5.0))
    literal = LeafRecipe(kind="literal", data=Literal(torch.ones(2, 3).to(MASKS[name].dtype)))
    for item in (*(LeafRecipe(kind=kind, edits=edits) for kind in (*KINDS, "example")), literal):
        for size in (1, 3, 7):
            mask = make(spec, item, {"n": size, "b": 2})
            assert bool((mask == 0).any(-1).all()), (item, mask)
            assert set(mask.unique().tolist()) <= set(MASKS[name].unique().tolist())
            if name == "causal":
                assert torch.equal(mask, torch.full((size, size), -math.inf).triu(1))


def packed(*lengths):
    return pack_sequence([torch.randn(length, 3) for length in lengths], enforce_sorted=False)


def test_packed_sequences_vary_together_over_the_recorded_ones():
    spec = spec_of(one, packed(1, 3), more=[Call((packed(2, 2, 2),)), Call((packed(3, 1),))])
    assert sizes_of(spec) == {"batch": (4, 6), "x_1_0": (2, 3), "x_2_0": (2, 3)}

    def lengths(recipe):
        return pad_packed_sequence(build(spec, recipe).args[0])[1].tolist()

    example = {"batch": 4, "x_1_0": 3, "x_2_0": 2}
    drawn = [lengths(plain_recipe(spec, "normal", example, seed)) for seed in (0, 1)]
    assert drawn == [[1, 3], [3, 1]]
    assert [lengths(recipe) for recipe in recorded_recipes(spec)] == [[2, 2, 2], [3, 1]]
    assert build(spec, plain_recipe(spec, "normal", {"batch": 6}, 0)) is None


def test_a_tensor_given_twice_is_one_tensor_in_every_call():
    x = torch.randn(3, 4)
    spec = spec_of(lambda x, y: x, x, x)
    assert "y is x, one tensor, as in the example" in [item.text for item in spec.assumed]

    drawn = build(spec, plain_recipe(spec, "normal", {"batch": 2}, seed=3))

    assert drawn.args[0] is drawn.args[1]
    assert drawn.args[0].shape == (2, 4)


def test_a_tensor_given_twice_is_one_tensor_in_the_example_alone_if_shapes_name_it():
    x = torch.randn(3, 4)
    spec = spec_of(lambda x, y: x, x, x, shapes={"x": "batch 4", "y": "batch 4"})
    assert spec.aliases == ((0, 1),)

    given = build(spec, example_recipe(spec))
    assert describe_recipe(spec, example_recipe(spec), given).endswith(", y is x")
    drawn = build(spec, plain_recipe(spec, "normal", {"batch": 2}, seed=3))

    assert given.args[0] is given.args[1]
    copied = given.clone()
    assert copied.args[0] is copied.args[1]
    assert not torch.equal(*drawn.args)


SWITCHES = {
    "bools": (torch.tensor([[True, False, True]]), None, {False, True}),
    "a range": (torch.tensor([[3, 9, 5]]), None, {3, 9}),
    "some": (torch.tensor([[0, 9, 5]]), [9, 5, 7], {5, 9}),
    "positive floats": (torch.rand(1, 3) + 2, (2.0, 3.0), {2.0, 3.0}),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_switched_numbers_are_two_legal_ones(name):
    example, values, wanted = SWITCHES[name]
    spec = spec_of(one, example, values={} if values is None else {"x": values})
    found = set()
    for seed in range(12):
        (rows,) = build_leaves(spec, plain_recipe(spec, SWITCHED, spec.example_sizes, seed))
        assert rows.dtype == example.dtype
        found |= set(rows.flatten().tolist())
    assert found == wanted
