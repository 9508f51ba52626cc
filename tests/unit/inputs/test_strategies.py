"""inputs/strategies.py: which calls are drawn, how many, and which are always run."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

from collections import Counter, defaultdict

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from specs import spec_of, within

from pytest_torchexport.config.options import Options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.drawing import for_each
from pytest_torchexport.inputs.recipes import (
    EXTENTS,
    LeafRecipe,
    Recipe,
    plain_recipe,
    with_leaves,
)
from pytest_torchexport.inputs.spec import TensorLeaf
from pytest_torchexport.inputs.strategies import (
    DRAWN_CAP,
    EXAMPLE_FACTOR,
    MEMORY_CAP,
    NewSizes,
    boundary_recipes,
    examples,
    has_varied_values,
    recipes,
    within_memory,
)

QUICK = settings(
    max_examples=120,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)

SPEC = spec_of(
    lambda image, ids, mask, unit, n, f, name, odd: image,
    torch.randn(2, 3, 4, 8),
    torch.tensor([[5, 9], [6, 7]]),
    torch.tensor([[True, False], [True, True]]),
    torch.rand(2, dtype=torch.float64),
    3,
    0.5,
    "a",
    torch.zeros(2, dtype=torch.uint8),
    shapes={"image": "b 3 h 2*h", "ids": "b t", "mask": "b t", "unit": "b", "odd": "b"},
    dims={"b": (0, 4), "h": range(4, 17, 4), "t": [1, 2, 5]},
    values={"n": (1.5, 6), "f": (-1, 1), "name": ["a", "b"], "odd": [3, 200]},
)


@QUICK
@given(recipes(SPEC))
def test_drawn_recipes_are_always_within_the_spec(recipe):
    for name, dim in SPEC.dims.items():
        assert recipe.sizes[name] in dim.sizes
    call = build(SPEC, recipe)
    leaves = dict(SPEC.flatten(call))
    assert leaves["image"].shape == (
        recipe.sizes["b"],
        3,
        recipe.sizes["h"],
        2 * recipe.sizes["h"],
    )
    for leaf in SPEC.leaves:
        value = leaves[leaf.path]
        if isinstance(leaf, TensorLeaf):
            assert value.dtype == leaf.dtype
            wide = value if value.is_floating_point() else value.to(torch.int64)
            assert within(wide, leaf.domain), (leaf.path, value)
    assert leaves["n"] in (2, 3, 4, 5, 6)
    assert -1 <= leaves["f"] <= 1
    assert isinstance(leaves["f"], float)
    assert leaves["name"] in ("a", "b")
    mask = leaves["mask"]
    assert bool(mask.any(-1).all())
    edits = [edit for leaf in recipe.leaves for edit in leaf.edits]
    assert {edit.extent for edit in edits} <= set(EXTENTS)


@pytest.mark.parametrize(
    "strategy",
    [st.floats(width=32), st.just(float("nan")), st.floats(0.25, 0.75), st.integers(2, 5)],
)
def test_a_strategy_gives_some_of_its_values_to_every_call(strategy):
    spec = spec_of(lambda x: x, torch.zeros(2, 3), values={"x": strategy})
    some = torch.tensor(spec.leaves[0].domain.choices, dtype=torch.float32)
    for recipe in boundary_recipes(spec, 0):
        numbers = build(spec, recipe).args[0].reshape(-1, 1)
        assert ((numbers == some) | (numbers.isnan() & some.isnan())).any(-1).all()


def boundary_sizes(spec):
    return [dict(recipe.sizes) for recipe in boundary_recipes(spec, 0)]


def test_the_boundary_moves_one_dim_at_a_time_and_then_all():
    spec = spec_of(
        lambda x: x,
        torch.randn(3, 8),
        shapes={"x": "b t"},
        dims={"b": (1, 6), "t": (4, 32)},
    )
    sizes = boundary_sizes(spec)
    for one in (1, 3, 6):
        assert {"b": one, "t": 8} in sizes
    for one in (4, 8, 32):
        assert {"b": 3, "t": one} in sizes
    assert {"b": 1, "t": 4} in sizes
    assert {"b": 6, "t": 32} in sizes
    mixed = [item for item in sizes if item["b"] != 3 and item["t"] != 8]
    assert mixed == [{"b": 1, "t": 4}, {"b": 6, "t": 32}]


@pytest.mark.parametrize("columns", [1, MEMORY_CAP])
def test_calls_beyond_the_memory_cap_are_not_made(columns):
    spec = spec_of(lambda x: x, torch.empty(2, 1).expand(2, columns), dims={"batch": (1, 2**30)})
    largest = max(MEMORY_CAP // columns, 2 * EXAMPLE_FACTOR)
    assert within_memory(spec, {"batch": largest})
    assert not within_memory(spec, {"batch": largest + 1})


@pytest.mark.parametrize("sizes", [(1, 2**60), range(1, 2**60, 2), [1, 2, 2**60]], ids=str)
def test_drawn_calls_are_smaller_than_those_of_the_boundary(sizes):
    spec = spec_of(lambda x: x, torch.zeros(1, 3), shapes={"x": "b 3"}, dims={"b": sizes})
    drawn = set()

    @QUICK
    @given(recipes(spec))
    def draw(recipe):
        drawn.add(recipe.sizes["b"])

    draw()
    assert len(drawn) > 1
    assert max(drawn) <= DRAWN_CAP // 3
    assert max(item.sizes["b"] for item in boundary_recipes(spec, 0)) > 2**60 - 2


def test_known_calls_are_drawn_too_as_they_are_and_varied():
    spec = spec_of(
        lambda x, n: x, torch.randn(2, 3), 4, dims={"batch": (1, 6)}, values={"n": (0, 99)}
    )
    known = with_leaves(
        plain_recipe(spec, "normal", {"batch": 5}, 11), {0: torch.full((5, 3), 1234.5), 1: 77}
    )
    near, exact, resized, others = Counter(), 0, set(), 0

    @QUICK
    @given(recipes(spec, [known]))
    def drawn(recipe):
        nonlocal exact, others
        x, n = build(spec, recipe).args
        assert recipe.sizes["batch"] in spec.dims["batch"].sizes
        if recipe.leaves[0].kind != "literal":
            others += 1
            return
        exact += recipe == known
        near[bool((x == 1234.5).any())] += 1
        resized.add(recipe.sizes["batch"])
        assert n == 77
        assert recipe.leaves[0].data == known.leaves[0].data

    drawn()
    assert near[True] > 5
    assert exact
    assert len(resized) > 2
    assert others > 5


def spec_with(columns=8, **dims):
    return spec_of(
        lambda x: x, torch.randn(3, columns), shapes={"x": "b t"}, dims={"b": (1, 6), **dims}
    )


def new_sizes(spec, **met):
    return NewSizes(spec, met)


def instead(new, **sizes):
    return new.instead_of(Recipe(sizes=sizes, leaves=(LeafRecipe(kind="ramp"),), seed=0)).sizes


def run(spec, most=50, seed=0, takes=lambda sizes: True):
    """Draw calls as the check parity does; return the sizes of each, and those met by dim."""
    met, tried = defaultdict(set), []
    new = NewSizes(spec, met)

    def drawn(recipe):
        tried.append(dict(recipe.sizes))
        if not takes(recipe.sizes):
            new.refused(recipe.sizes)
        elif has_varied_values(spec, recipe):
            for name, size in recipe.sizes.items():
                met[name].add(size)

    for_each(recipes(spec, (), new.instead_of), drawn, seed=seed, most=most)
    return tried, met


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_size_of_a_small_range_is_run_with_varied_values(seed):
    spec = spec_with(t=(4, 23))
    _, met = run(spec, seed=seed)
    assert met == {"b": set(range(1, 7)), "t": set(range(4, 24))}


def test_a_call_at_a_new_size_gets_varied_values_unless_it_has_some():
    spec = spec_of(lambda x, y: x, torch.randn(3), torch.randn(3), shapes={"x": "b", "y": "b"})
    new = new_sizes(spec)

    def kinds(*given):
        drawn = plain_recipe(spec, given, {"b": 2}, 0)
        return [item.kind for item in new.instead_of(drawn).leaves]

    assert kinds("zeros", "flat") == ["normal", "normal"]
    assert kinds("zeros", "ladder") == ["zeros", "ladder"]


def test_a_refused_size_is_tried_once_more_beside_the_examples_and_then_no_more():
    new = new_sizes(spec_with(t=(1, 1000)), t=[2, 3], b=range(1, 6))
    assert instead(new, b=1, t=7) == {"b": 6, "t": 999}
    new.refused({"b": 6, "t": 999})
    assert instead(new, b=1, t=7) == {"b": 6, "t": 8}
    new.refused({"b": 6, "t": 8})
    assert instead(new, b=1, t=7) == {"b": 3, "t": 999}
    new.refused({"b": 3, "t": 999})
    assert instead(new, b=1, t=7) == {"b": 1, "t": 7}


@pytest.mark.parametrize(
    ("flag", "marker", "ini", "count"),
    [(3, 7, 9, 3), (None, 7, 9, 7), (None, None, 9, 9), (None, None, None, 20)],
)
def test_the_flag_goes_before_the_marker_and_the_ini_file_before_the_profile(
    flag, marker, ini, count
):
    hypothesis.settings.register_profile("forty", max_examples=40)
    before = hypothesis.settings.get_current_profile_name()
    hypothesis.settings.load_profile("forty")
    try:
        plan = Plan(
            target="trace",
            device="cpu",
            max_examples=flag,
            options=Options(max_examples=marker),
            settings=Settings(max_examples=ini),
        )
        assert examples(plan) == count
    finally:
        hypothesis.settings.load_profile(before)
