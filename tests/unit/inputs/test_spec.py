"""inputs/spec.py: paths, Python arguments, map and filter, and what is said to be assumed."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import re

import pytest
import torch
from specs import spec_of

from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.results.failures import SpecError


def model(x, state, *, batch=None, scale=1.0):
    return x


def model_spec(**options):
    return spec_of(
        model,
        torch.randn(2, 3),
        [torch.randn(2, 4), torch.randn(2, 5)],
        kwargs={"batch": {"mask": torch.ones(2, 3, dtype=torch.bool)}, "scale": 2.0},
        **options,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"shapes": {"state": "b 3"}},
            "'state' is a container; name its leaves: state[0], state[1]",
        ),
        ({"values": {"scal": [1]}}, "Did you mean 'scale'?"),
        ({"shapes": {'batch["mask"]': "b"}}, "Did you mean \"batch['mask']\"?"),
        ({"shapes": {"scale": "b"}}, "'scale' is 2.0, not a tensor"),
        ({"values": {"x": ["a"]}}, "values: 'x' is a tensor, and 'a' is no number"),
        ({"values": {"batch['mask']": (0, 7)}}, "values: \"batch['mask']\" is bool"),
    ],
)
def test_paths_that_do_not_exist_are_spec_errors(options, words):
    with pytest.raises(SpecError, match=re.escape(words)):
        model_spec(**options)


def test_what_is_assumed_is_said_in_sentences():
    spec = spec_of(
        lambda ids, x, n, name, nothing: x,
        torch.tensor([[3, 9]]),
        torch.tensor([[-1.0, 2.0]]),
        5,
        "fast",
        None,
    )
    text = "\n".join(map(str, spec.assumed))
    assert "dim 0 of ids and dim 0 of x are 'batch', 1..2" in text
    assert "values of ids are 3..9, as in the example" in text
    assert "n stays 5" in text
    assert "name stays 'fast'" in text
    assert "nothing" not in text
    assert "values of x" not in text
    assert [(item.kind, item.path) for item in spec.assumed] == [
        ("dim", ""),
        ("values", "ids"),
        ("argument", "n"),
        ("argument", "name"),
    ]


def test_map_reaches_keyword_arguments_and_takes_only_what_it_names():
    spec = spec_of(
        lambda x, y=None: x,
        torch.ones(2),
        kwargs={"y": torch.ones(2)},
        map=lambda y: {"y": y * 3, "x": y * 0},
    )
    call = build(spec, example_recipe(spec))
    assert call.args[0].tolist() == [0, 0]
    assert call.kwargs["y"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"map": lambda z: {}}, "map: 'z' is not an argument of this call; legal: x"),
        ({"map": lambda x: x}, "map: must return a dict of changed arguments (x)"),
        ({"map": lambda x: {"y": x}}, "map: must return a dict of changed arguments (x)"),
        ({"filter": lambda x: 1 / 0}, "filter: raised ZeroDivisionError: division by zero"),
        ({"filter": lambda x: x > 0}, "filter: must return one bool"),
    ],
)
def test_map_and_filter_that_are_wrong_are_spec_errors(options, words):
    spec = spec_of(lambda x: x, torch.ones(2), **options)
    with pytest.raises(SpecError, match=re.escape(words)):
        build(spec, example_recipe(spec))
