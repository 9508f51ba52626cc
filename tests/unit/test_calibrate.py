"""calibrate.py: rounding and ties are explained, bugs are kept."""

# ruff: noqa: ARG005  # an artifact may ignore what eager returned

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pytest_torchexport.calibrate import Calibration
from pytest_torchexport.compare import Tolerance, compare
from pytest_torchexport.observe import Returned, observe
from pytest_torchexport.spec.inputs import Call
from pytest_torchexport.subject import Subject


def kept(function, call, actual):
    """The differences that calibration keeps between eager's value and ``actual(value)``."""
    subject = Subject.of(function)
    expected = observe(subject.function, call, seed=0)
    assert isinstance(expected, Returned), expected
    found = Returned(actual(expected.value), call)
    differences = compare(expected, found, Tolerance())
    assert differences, "the table of tolerances must fail first"
    return Calibration(subject, 0).keep_bugs(differences, call, expected, found)


def cancelling(x):
    """Loses most of float32's digits: (1e4 + x) - 1e4."""
    return (x + 1e4) - 1e4


CALL = Call((torch.linspace(0.1, 1.0, 50),))


def test_a_difference_within_eagers_own_error_is_rounding():
    truth = CALL.args[0]
    assert kept(cancelling, CALL, lambda value: truth.clone()) == []


def test_a_difference_beyond_it_is_kept_and_eagers_error_is_told():
    (difference,) = kept(cancelling, CALL, lambda value: value + 0.1)
    assert 0 < difference.own_error < 1e-2
    assert difference.max_abs == pytest.approx(0.1, rel=0.1)


def test_an_exact_computation_explains_nothing():
    (difference,) = kept(lambda x: x * 2, CALL, lambda value: value + 1e-3)
    assert difference.own_error < 1e-6


def test_nan_against_a_number_is_never_rounding():
    def poison(value):
        value = value.clone()
        value[3] = math.nan
        return value

    assert len(kept(cancelling, CALL, poison)) == 1


def test_infinity_against_a_number_is_never_rounding():
    def overflow(value):
        value = value.clone()
        value[3] = math.inf
        return value

    assert len(kept(cancelling, CALL, overflow)) == 1


def test_an_element_that_is_infinite_in_eager_does_not_excuse_the_others():
    call = Call((torch.tensor([1e38, 1.0]),))
    (difference,) = kept(lambda x: x * 10, call, lambda v: v + torch.tensor([0.0, 1.0]))
    assert difference.mismatched == 1


def test_an_integer_that_float64_decides_otherwise_is_a_tie():
    # float32 has no 1e8 + 1: there the sum is below the threshold, in float64 above it.
    def index(x):
        return ((x + 1e8) - 1e8 > 0.5).to(torch.int64)

    call = Call((torch.ones(1),))
    assert index(call.args[0]).item() == 0
    assert index(call.args[0].double()).item() == 1
    assert kept(index, call, lambda value: 1 - value) == []


def test_an_integer_that_float64_decides_the_same_way_is_a_bug():
    assert len(kept(lambda x: x.argmax().reshape(1), CALL, lambda value: value - 1)) == 1


def test_a_bool_is_judged_like_an_integer():
    call = Call((torch.tensor([0.2, 0.9]),))
    assert len(kept(lambda x: x > 0.5, call, lambda value: ~value)) == 1


def test_other_kinds_than_values_are_never_explained():
    assert len(kept(lambda x: x, CALL, lambda value: value[:3])) == 1
    assert len(kept(lambda x: x, CALL, lambda value: (value,))) == 1


def test_where_float64_cannot_run_nothing_is_explained():
    def fussy(x):
        if x.dtype != torch.float32:
            raise TypeError("only float32")
        return cancelling(x)

    assert len(kept(fussy, CALL, lambda value: CALL.args[0].clone())) == 1


def test_where_float64_has_another_structure_nothing_is_explained():
    def moody(x):
        return cancelling(x) if x.dtype == torch.float32 else (x, x)

    assert len(kept(moody, CALL, lambda value: CALL.args[0].clone())) == 1


def test_the_users_module_stays_in_float32():
    module = nn.Linear(3, 2)
    module.weight.data.mul_(1e4)
    kept(module, Call((torch.randn(4, 3),)), lambda value: value + 100.0)
    assert module.weight.dtype == torch.float32


def test_each_output_is_judged_on_its_own():
    def two(x):
        return {"exact": x * 2, "lossy": cancelling(x)}

    truth = CALL.args[0]
    differences = kept(two, CALL, lambda v: {"exact": v["exact"] + 1e-3, "lossy": truth.clone()})
    assert [difference.path for difference in differences] == ["output['exact']"]


def test_half_precision_is_calibrated_too():
    def lossy(x):
        return (x + 1000) - 1000

    x = torch.linspace(0.1, 1.0, 20).half()
    assert kept(lossy, Call((x,)), lambda value: x.clone()) == []
    assert len(kept(lossy, Call((x,)), lambda value: value + 5)) == 1


def test_complex_outputs_are_calibrated_too():
    def lossy(x):
        return (x + 1e4) - 1e4

    x = torch.complex(CALL.args[0], CALL.args[0])
    assert kept(lossy, Call((x,)), lambda value: x.clone()) == []
    assert len(kept(lossy, Call((x,)), lambda value: value + 1)) == 1
