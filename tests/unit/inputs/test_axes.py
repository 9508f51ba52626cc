"""inputs/axes.py: which axes vary, by what was said and by what is assumed."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float, Int
from specs import shapes_of, sizes_of, spec_of
from torch.export import Dim

from pytest_torchexport.inputs.axes import groups
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.results.failures import SpecError


def one(x):
    return x


def two(x, y):
    return x


# -- the batch rule --------------------------------------------------------------------------------


def listed(axis, **shapes):
    return list(groups({name: torch.zeros(shape) for name, shape in shapes.items()}, axis))


def test_the_likeliest_axes_of_a_batch_come_first():
    assert listed(0, x=(4, 3), position=(5,)) == [{"x": 0}, {"position": 0}]
    assert listed(0, x=(4, 3), weight=(4,))[:2] == [{"x": 0, "weight": 0}, {"x": 0}]
    assert listed(0, x=(3, 5), state=(1, 3))[:2] == [{"x": 0}, {"x": 0, "state": 1}]
    assert listed(1, x=(5, 3, 8), lengths=(3,))[:2] == [{"x": 1}, {"x": 1, "lengths": 0}]
    assert {"x": 0, "state": 1} in listed(0, x=(2, 5), state=(2, 2))
    assert listed(1, x=(4,)) == listed(0, x=()) == []


# -- shape strings ---------------------------------------------------------------------------------


def test_shapes_name_dims_and_ranges_come_from_dims():
    spec = spec_of(
        one,
        torch.randn(2, 3, 32, 64),
        shapes={"x": "batch 3 height width"},
        dims={"batch": (1, 16), "height": range(32, 129, 32), "width": [64, 96]},
    )
    assert sizes_of(spec) == {
        "batch": range(1, 17),
        "height": range(32, 129, 32),
        "width": (64, 96),
    }
    assert all(dim.declared for dim in spec.dims.values())
    assert [dim.example for dim in spec.dims.values()] == [2, 32, 64]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes": {"x": "b"}}, r"shapes: 'x' is .* 1 axes \('b'\).* has 2: \[2, 3\]"),
        ({"shapes": {"x": "b 4"}}, "shapes: axis '4' .* the example has 3"),
        ({"shapes": {"x": "b b"}}, "shapes: axis 'b' .*b=2.* has 3"),
        (
            {"dims": {"bacth": (1, 2)}},
            "dims: 'bacth' is not a dim of this call; its dims: batch. Did you mean 'batch'?",
        ),
        ({"dynamic_shapes": {"z": {0: "b"}}}, "'z' is not an argument of this call; legal: x"),
        ({"dynamic_shapes": ({0: "b"},) * 2}, r"has 2 entries, but the call has 1 arguments \(x\)"),
        ({"dynamic_shapes": "b"}, "'b' is not a dict or a tuple"),
        ({"dynamic_shapes": {"x": {2: "b"}}}, "'x' has 2 dims, so 2 is not one of them"),
        ({"dynamic_shapes": {"x": ("b",)}}, "does not fit 'x' with 2 dims"),
        ({"dynamic_shapes": {"x": {0: 3.5}}}, "dynamic_shapes: 3.5 for dim 0 of 'x' is not a Dim"),
    ],
)
def test_what_does_not_fit_the_example_is_a_spec_error(options, message):
    with pytest.raises(SpecError, match=message):
        spec_of(one, torch.randn(2, 3), **options)


# -- several recorded calls ------------------------------------------------------------------------


def test_sizes_that_differed_between_calls_vary_and_equal_histories_are_one_dim():
    more = [
        Call((torch.randn(4, 3, 16), torch.randn(4))),
        Call((torch.randn(1, 3, 8), torch.randn(1))),
    ]
    spec = spec_of(two, torch.randn(2, 3, 8), torch.randn(2), more=more)
    assert shapes_of(spec) == {"x": "batch 3 x_2", "y": "batch"}
    assert sizes_of(spec) == {"batch": range(1, 9), "x_2": range(1, 33)}
    assert any("3 recorded calls" in line for line in map(str, spec.assumed))


# -- jaxtyping -------------------------------------------------------------------------------------


def test_jaxtyping_annotations_name_the_dims_as_far_as_we_have_words_for_them():
    annotations = {"x": Float[torch.Tensor, "batch 3 time"], "y": Int[torch.Tensor, "batch"]}
    ids = torch.zeros(2, dtype=torch.int64)
    spec = spec_of(two, torch.randn(2, 3, 4), ids, annotations=annotations)
    assert shapes_of(spec) == {"x": "batch 3 time", "y": "batch"}
    assert any("jaxtyping annotation" in line for line in map(str, spec.assumed))
    for text in ("*batch 3", "batch"):
        spec = spec_of(one, torch.randn(2, 3), annotations={"x": Float[torch.Tensor, text]})
        assert shapes_of(spec) == {"x": "batch 3"}


# -- torch's dynamic_shapes ------------------------------------------------------------------------


def dynamic(given, *args):
    return spec_of(two, *(args or (torch.randn(2, 3), torch.randn(2, 6))), dynamic_shapes=given)


B, TIME = Dim("batch", min=2, max=16), Dim("time", min=1, max=5)
STATE = [torch.randn(2, 3), {"m": torch.randn(2, 4), "k": (torch.randn(2), torch.randn(5))}]
OF_BATCH = {"x": "batch 3", "y": "batch 6"}


@pytest.mark.parametrize(
    ("given", "args", "shapes", "sizes"),
    [
        ({"x": {0: B}, "y": {0: B}}, (), OF_BATCH, {"batch": range(2, 17)}),
        (({0: B}, {0: B}), (), OF_BATCH, {"batch": range(2, 17)}),
        ({"x": (B, None), "y": [B, None]}, (), OF_BATCH, {"batch": range(2, 17)}),
        # Derived dims keep their relation.
        (
            {"x": {1: TIME}, "y": {1: 2 * TIME}},
            (),
            {"x": "2 time", "y": "2 2*time"},
            {"time": range(1, 6)},
        ),
        ({"x": {1: TIME}, "y": {1: TIME + 3}}, (), {"x": "2 time", "y": "2 time+3"}, None),
        ({"x": None, "y": {1: 2 * TIME}}, (), {"x": "2 3", "y": "2 2*time"}, None),
        (
            {"x": [{0: B}, {"m": {0: B}, "k": ({0: B}, None)}], "y": {0: B}},
            (STATE, torch.randn(2, 1)),
            {
                "x[0]": "batch 3",
                "x[1]['m']": "batch 4",
                "x[1]['k'][0]": "batch",
                "x[1]['k'][1]": "5",
                "y": "batch 1",
            },
            {"batch": range(2, 17)},
        ),
    ],
)
def test_dims_of_torch_are_declared_wherever_a_pytree_has_them(given, args, shapes, sizes):
    spec = dynamic(given, *args)
    assert shapes_of(spec) == shapes
    assert sizes_of(spec) == (sizes or {"time": range(1, 6)})
    assert all(dim.declared for dim in spec.dims.values())


def test_hints_with_bounds_vary_within_them():
    (dim,) = dynamic({"x": {0: Dim.STATIC, 1: Dim.AUTO(min=2, max=8)}, "y": None}).dims.values()
    assert (dim.low, dim.high, dim.declared) == (2, 8, True)


def test_variadic_arguments_are_written_as_torch_wants_them():
    def variadic(x, *args, **kwargs):
        return x

    b = Dim("b", max=9)
    spec = spec_of(
        variadic,
        torch.randn(2, 3),
        torch.randn(2),
        torch.randn(2, 1),
        kwargs={"z": torch.randn(2, 5)},
        dynamic_shapes={
            "x": {0: b},
            "args": ({0: b}, {0: b}),
            "kwargs": {"z": {0: b}},
        },
    )
    assert set(spec.dims) == {"b"}
    assert all(text.startswith("b") for text in shapes_of(spec).values())
