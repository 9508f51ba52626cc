"""judge/coverage.py: what calls reached, and what they left out because nobody declared it."""

from __future__ import annotations

import pytest
import torch
from specs import spec_of

from pytest_torchexport.config.options import Options, parse_options
from pytest_torchexport.inputs.recipes import Edit, LeafRecipe, Literal, Recipe
from pytest_torchexport.judge.coverage import Covered, uncovered
from pytest_torchexport.results.verdict import Uncovered
from pytest_torchexport.targets.formats.facts import ProgramFacts
from pytest_torchexport.targets.formats.size_facts import SizeFacts
from pytest_torchexport.targets.formats.sizes import suspicions

X = torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, 1.0]])


def net(x):
    return x


class Sized(ProgramFacts):
    """The facts of a file that takes these sizes; None is any."""

    def __init__(self, *shape):
        super().__init__()
        object.__setattr__(self, "shape", shape)

    def suspicions(self, spec, example):
        return suspicions(spec, SizeFacts.of_inputs([self.shape]))


def left_out(spec, facts=None, covered=None, **options):
    given = parse_options((), options) if options else Options()
    facts = facts or ProgramFacts()
    return uncovered(covered or Covered(), spec, given, facts, tied=())


@pytest.mark.parametrize(
    ("item", "left"),
    [
        (LeafRecipe(kind="normal", scale=3.0), False),
        (LeafRecipe(kind="ones"), False),
        (LeafRecipe(kind="zeros", edits=(Edit(0, 4.0),)), False),
        (LeafRecipe(kind="zeros", edits=(Edit(0, -40.0),)), True),
        (LeafRecipe(kind="literal", data=Literal(torch.tensor([2.0]))), False),
        (LeafRecipe(kind="literal", data=Literal(torch.tensor([-20.0]))), True),
    ],
)
def test_a_float_leaves_its_scale_at_ten_times_the_example(item, left):
    spec, covered = spec_of(net, X), Covered()
    covered.saw(spec, Recipe(sizes={"batch": 4}, leaves=(item,)))
    assert covered.left_scale == left
    assert covered.sizes == {"batch": {4}}
    assert left_out(spec, covered=covered).same_scale != left


@pytest.mark.parametrize(
    ("example", "options"),
    [(X, {"values": {"x": (-1.0, 1.0)}}), (X > 0, {}), (X.long(), {}), ((X + 1) / 2, {})],
)
def test_values_that_are_declared_or_of_a_closed_range_are_covered(example, options):
    assert not left_out(spec_of(net, example, **options), **options).same_scale


def test_sizes_that_stay_are_left_out_unless_somebody_declared_them():
    assert left_out(spec_of(net, X)).fixed_sizes
    assert not left_out(spec_of(net, X[0])).fixed_sizes  # its one axis varies
    declared = {"shapes": {"x": "batch 3"}}
    assert not left_out(spec_of(net, X, **declared), **declared).fixed_sizes


@pytest.mark.parametrize(
    ("facts", "open_dims"),
    [(Sized(None, 3), ("batch",)), (Sized(2, 3), ()), (ProgramFacts(), ())],
    ids=["any", "static", "unknown"],
)
def test_an_assumed_dim_is_open_if_the_file_takes_any_size(facts, open_dims):
    assert left_out(spec_of(net, X), facts).open_dims == open_dims


def test_a_declared_range_is_not_open():
    declared = {"shapes": {"x": "batch 3"}, "dims": {"batch": (1, 4)}}
    found = left_out(spec_of(net, X, **declared), Sized(None, 3), **declared)
    assert found == Uncovered(same_scale=True)
