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


def refused(*args, **kwargs):
    with pytest.raises(SpecError) as caught:
        spec_of(*args, **kwargs)
    return str(caught.value)


# -- the batch rule --------------------------------------------------------------------------------


def test_dimension_zero_is_batch_where_all_tensors_agree_on_it():
    spec = spec_of(two, torch.randn(4, 3), torch.randn(4))
    assert shapes_of(spec) == {"x": "batch 3", "y": "batch"}
    assert sizes_of(spec) == {"batch": range(1, 9)}
    assert any(
        "dim 0 of x and dim 0 of y are 'batch', 1..8" in line for line in map(str, spec.assumed)
    )


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
    ("options", "parts"),
    [
        ({"shapes": {"x": "b"}}, ["shapes:", "'x'", "1 axes ('b')", "has 2: [2, 3]"]),
        ({"shapes": {"x": "b 4"}}, ["shapes:", "axis '4'", "the example has 3"]),
        ({"shapes": {"x": "b b"}}, ["shapes:", "axis 'b'", "b=2", "has 3"]),
        ({"dims": {"bacth": (1, 2)}}, ["dims:", "'bacth'", "batch", "Did you mean 'batch'?"]),
        (
            {"dims": {"time": (1, 2)}},
            ["dims:", "'time' is not a dim of this call; its dims: batch"],
        ),
    ],
)
def test_what_does_not_fit_the_example_is_a_spec_error(options, parts):
    message = refused(one, torch.randn(2, 3), **options)
    for part in parts:
        assert part in message, message


# -- several recorded calls ------------------------------------------------------------------------


def calls(*shapes):
    return [Call((torch.randn(*shape),)) for shape in shapes]


def test_sizes_that_differed_between_calls_vary():
    spec = spec_of(one, torch.randn(2, 3, 8), more=calls((4, 3, 16), (1, 3, 8)))
    assert shapes_of(spec) == {"x": "batch 3 x_2"}
    assert sizes_of(spec) == {"batch": range(1, 9), "x_2": range(1, 33)}
    assert any("3 recorded calls" in line for line in map(str, spec.assumed))


def test_equal_histories_are_one_dim():
    more = [Call((torch.randn(4, 5), torch.randn(4, 6)))]
    spec = spec_of(two, torch.randn(2, 3), torch.randn(2, 6), more=more)
    assert shapes_of(spec) == {"x": "batch x_1", "y": "batch 6"}


# -- jaxtyping -------------------------------------------------------------------------------------


def test_jaxtyping_annotations_name_the_dims():
    annotations = {
        "x": Float[torch.Tensor, "batch 3 height width"],
        "y": Int[torch.Tensor, "batch time"],
    }
    spec = spec_of(
        two, torch.randn(2, 3, 4, 5), torch.zeros(2, 7, dtype=torch.int64), annotations=annotations
    )
    assert shapes_of(spec) == {"x": "batch 3 height width", "y": "batch time"}
    assert any("jaxtyping annotation" in line for line in map(str, spec.assumed))


@pytest.mark.parametrize("text", ["*batch 3", "#batch 3", "batch"])
def test_jaxtyping_of_which_we_have_no_word_falls_back_to_the_next_rule(text):
    spec = spec_of(one, torch.randn(2, 3), annotations={"x": Float[torch.Tensor, text]})
    assert shapes_of(spec) == {"x": "batch 3"}


# -- torch's dynamic_shapes ------------------------------------------------------------------------


def dynamic(given, *args, function=two, **kwargs):
    args = args or (torch.randn(2, 3), torch.randn(2, 6))
    return spec_of(function, *args, dynamic_shapes=given, **kwargs)


def test_dims_with_min_and_max_are_declared():
    batch = Dim("batch", min=2, max=16)
    for given in (
        {"x": {0: batch}, "y": {0: batch}},
        ({0: batch}, {0: batch}),
        {"x": (batch, None), "y": [batch, None]},
    ):
        spec = dynamic(given)
        assert shapes_of(spec) == {"x": "batch 3", "y": "batch 6"}
        assert sizes_of(spec) == {"batch": range(2, 17)}
        assert spec.dims["batch"].declared


def test_derived_dims_keep_their_relation():
    time = Dim("time", min=1, max=5)
    spec = dynamic({"x": {1: time}, "y": {1: 2 * time}})
    assert shapes_of(spec) == {"x": "2 time", "y": "2 2*time"}
    spec = dynamic({"x": {1: time}, "y": {1: time + 3}})
    assert spec.leaves[1].shape[1].evaluate({"time": 5}) == 8
    spec = dynamic({"x": None, "y": {1: 2 * time}})
    assert sizes_of(spec) == {"time": range(1, 6)}


@pytest.mark.parametrize("hint", [Dim.AUTO, Dim.DYNAMIC])
def test_hints_with_bounds_vary_within_them(hint):
    spec = dynamic({"x": {1: hint(min=2, max=8)}, "y": None})
    (dim,) = spec.dims.values()
    assert (dim.low, dim.high, dim.declared) == (2, 8, True)


def test_nested_pytrees_follow_the_inputs():
    state = [torch.randn(2, 3), {"m": torch.randn(2, 4), "k": (torch.randn(2), torch.randn(5))}]
    b = Dim("b", min=1, max=9)

    def function(state, x):
        return x

    spec = dynamic(
        {"state": [{0: b}, {"m": {0: b}, "k": ({0: b}, None)}], "x": {0: b}},
        state,
        torch.randn(2, 1),
        function=function,
    )
    assert shapes_of(spec) == {
        "state[0]": "b 3",
        "state[1]['m']": "b 4",
        "state[1]['k'][0]": "b",
        "state[1]['k'][1]": "5",
        "x": "b 1",
    }


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


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"z": {0: "b"}}, ["'z' is not an argument of this call; legal: x, y"]),
        (({0: "b"},), ["has 1 entries, but the call has 2 arguments (x, y)"]),
        ("b", ["'b' is not a dict or a tuple"]),
        ({"x": {2: "b"}}, ["'x' has 2 dims, so 2 is not one of them"]),
        ({"x": ("b",)}, ["does not fit 'x' with 2 dims"]),
        ({"x": {0: 3.5}}, ["dynamic_shapes:", "'x'"]),
    ],
)
def test_dynamic_shapes_that_do_not_fit_are_spec_errors(given, parts):
    with pytest.raises(SpecError) as caught:
        dynamic(given)
    for part in ("dynamic_shapes", *parts):
        assert part in str(caught.value)
