"""judge/vacuity.py: outputs that agree whatever happens are named, and outputs that say something are not."""

from __future__ import annotations

import math

import pytest
import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.vacuity import (
    ACCEPTED_SHARE,
    HARDLY_ANY,
    TOO_FEW,
    OutputActivity,
    weighed,
)
from pytest_torchexport.outcomes.compare import Tolerance
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.results.failures import Ineffective


def effects(function, calls=None, tolerance=None):
    found = OutputActivity(tolerance or Tolerance())
    for number in range(6):
        x = torch.randn(2, 3, generator=torch.Generator().manual_seed(number))
        call = Call((x,)) if calls is None else calls[number % len(calls)]
        found.saw(call, Returned(function(*call.args), call))
    return found


WEAK = {
    "constant": (torch.ones_like, "does not depend on the input"),
    "zero": (torch.zeros_like, "is zero on every call"),
    "nan": (lambda x: x * math.nan, "is nan or infinite on every call"),
    "infinite": (lambda x: torch.full_like(x, math.inf), "is nan or infinite"),
    "bias alone": (lambda x: torch.arange(3.0) + 0 * x, "does not depend on the input"),
    "empty": (lambda x: x[:, :0], "is empty on every call"),
    "tiny": (lambda x: x * 1e-15, "differences up to 1e-05 pass"),
    "tiny beside a bias": (lambda x: 1.0 + x * 1e-7, "hardly depends on the input"),
    "constant integers": (lambda x: x.new_ones(3).long(), "does not depend on the input"),
}
STRONG = {
    "itself": lambda x: x,
    "small": lambda x: x * 1e-3,
    "integers": lambda x: (x > 0).long(),
    "bools": lambda x: x > 0,
    "some nan": lambda x: torch.where(x > 0, x, math.nan),
    "one number": lambda x: x.sum(),
    "double beside a large bias": lambda x: 1000.0 + x.double() * 1e-3,
    "large with a small signal": lambda x: 100 + x,
}


@pytest.mark.parametrize("name", WEAK)
def test_outputs_that_say_nothing_are_named(name):
    function, text = WEAK[name]
    (complaint,) = effects(function).complaints()
    assert complaint.startswith("output ")
    assert text in complaint


@pytest.mark.parametrize("name", STRONG)
def test_outputs_that_say_something_are_not(name):
    found = effects(STRONG[name])
    assert found.complaints() == []
    assert found.partial() == []


def test_one_output_that_says_something_is_enough_and_the_other_is_told():
    found = effects(lambda x: {"mask": torch.ones(3), "y": x})
    assert found.complaints() == []
    assert found.partial() == ["output['mask'] does not depend on the input"]


def test_equal_calls_prove_nothing():
    call = Call((torch.ones(2, 3),))
    assert effects(lambda x: x * 2, [call]).complaints() == []


def test_other_shapes_prove_nothing():
    calls = [Call((torch.ones(size, 3),)) for size in range(1, 6)]
    assert effects(lambda x: x * 2, calls).complaints() == []


def test_the_users_tolerance_is_what_is_forgiven():
    tight = Tolerance(0.0, 1e-20)
    assert effects(lambda x: x * 1e-15, tolerance=tight).complaints() == []


def test_outputs_without_tensors_are_nobodys_business():
    assert effects(lambda x: (None, len(x))).complaints() == []


def test_an_empty_example_is_no_measure_of_the_others():
    """Detections: none on the example, some on other calls, and never alike."""
    calls = [Call((torch.full((2, 3), -1.0),)), *(Call((torch.rand(2, 3),)) for _ in range(6))]
    found = effects(lambda x: x[x > 0], calls)
    assert found.complaints() == []
    assert found.partial() == []


@pytest.mark.parametrize("other_values", [True, False])
def test_few_sizes_of_the_examples_values_are_weak_and_few_values_hardly_a_check(other_values):
    outputs = effects(lambda x: x, [Call((torch.ones(size, 3),)) for size in range(1, 6)])
    assert TOO_FEW < outputs.calls < HARDLY_ANY
    many = int(outputs.calls / ACCEPTED_SHARE)
    given = {"refused": many, "refusal": "", "fixed": ()}
    if other_values:
        with pytest.raises(Ineffective, match=f"eager takes {outputs.calls} different calls"):
            weighed(outputs, only_the_examples_values=False, **given)
    else:
        weak = weighed(outputs, only_the_examples_values=True, **given)
        assert weak[0] == "eager takes hardly any values but the example's: only sizes varied"
