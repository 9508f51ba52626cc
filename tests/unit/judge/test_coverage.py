"""judge/coverage.py: what a pass says, and what the calls left uncovered."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from specs import spec_of

from pytest_torchexport.config.options import Options, parse_options
from pytest_torchexport.inputs.recipes import Edit, LeafRecipe, Literal, Recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.coverage import (
    ACCEPTED_SHARE,
    HARDLY_ANY,
    TOO_FEW,
    Covered,
    OutputActivity,
    uncovered,
    weighed,
)
from pytest_torchexport.outcomes.compare import Tolerance
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.results.failures import Ineffective
from pytest_torchexport.results.verdict import Uncovered
from pytest_torchexport.targets.formats.facts import ProgramFacts
from pytest_torchexport.targets.formats.sizes import SizeFacts, suspicions


def effects(function, calls=None):
    found = OutputActivity()
    for number in range(6):
        x = torch.randn(2, 3, generator=torch.Generator().manual_seed(number))
        call = Call((x,)) if calls is None else calls[number % len(calls)]
        found.saw(call, Returned(function(*call.args), call))
    return found


WEAK = {
    "constant": (torch.ones_like, "does not depend on the input"),
    "zero": (torch.zeros_like, "is zero on every call"),
    "nan": (lambda x: x * math.nan, "is nan or infinite on every call"),
    "empty": (lambda x: x[:, :0], "is empty on every call"),
    "tiny": (lambda x: x * 1e-15, "differences up to 1e-05 pass"),
    "tiny beside a bias": (lambda x: 1.0 + x * 1e-7, "hardly depends on the input"),
}
STRONG = {
    "small": lambda x: x * 1e-3,
    "bools": lambda x: x > 0,
    "some nan": lambda x: torch.where(x > 0, x, math.nan),
    "double beside a large bias": lambda x: 1000.0 + x.double() * 1e-3,
    "large with a small signal": lambda x: 100 + x,
}


def texts(found):
    """Return what is said of all outputs, and what is said of single ones."""
    return [found.complaints(Tolerance(), partial=partial) for partial in (False, True)]


@pytest.mark.parametrize("name", WEAK)
def test_outputs_that_say_nothing_are_named(name):
    function, text = WEAK[name]
    (complaint,), others = texts(effects(function))
    assert complaint.startswith("output ")
    assert text in complaint
    assert others == []


def test_how_far_an_output_moves_is_weighed_among_calls_of_its_size():
    small = [Call((torch.full((2, 3), float(n)),)) for n in range(5)]
    calls = [*small, Call((torch.full((1, 3), 1e37),))]
    assert texts(effects(lambda x: x, calls)) == [[], []]


@pytest.mark.parametrize("name", STRONG)
def test_outputs_that_say_something_are_not(name):
    assert texts(effects(STRONG[name])) == [[], []]


def test_one_output_that_says_something_is_enough_and_the_other_is_told():
    found = texts(effects(lambda x: {"mask": torch.ones(3), "y": x}))
    assert found == [[], ["output['mask'] does not depend on the input"]]


def test_an_empty_example_is_no_measure_of_the_others():
    """Detections: none on the example, some on other calls, and never alike."""
    calls = [Call((torch.full((2, 3), -1.0),)), *(Call((torch.rand(2, 3),)) for _ in range(6))]
    assert texts(effects(lambda x: x[x > 0], calls)) == [[], []]


@pytest.mark.parametrize("sizes_vary", [True, False])
@pytest.mark.parametrize("other_values", [True, False])
def test_few_sizes_of_the_examples_values_are_weak_and_few_values_hardly_a_check(
    other_values, sizes_vary
):
    outputs = effects(lambda x: x, [Call((torch.ones(size, 3),)) for size in range(1, 6)])
    assert TOO_FEW < outputs.calls < HARDLY_ANY
    accepted = SimpleNamespace(
        fell_back=not other_values,
        takes_other_values=other_values,
        spec=SimpleNamespace(dims={"batch": 1} if sizes_vary else {}),
        refusal="",
        fixed=(),
    )
    given = outputs, Tolerance(), accepted, int(outputs.calls / ACCEPTED_SHARE)
    if other_values or not sizes_vary:
        with pytest.raises(Ineffective, match=f"eager takes {outputs.calls} different calls"):
            weighed(*given)
    else:
        weak = weighed(*given)
        assert weak[0] == "eager takes hardly any values but the example's: only sizes varied"


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
