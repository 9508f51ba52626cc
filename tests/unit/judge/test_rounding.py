"""judge/rounding.py: rounding and ties are explained, bugs are kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.other_runs import OtherRuns, Runs, leaves_after
from pytest_torchexport.judge.rounding import (
    MULTIPLE,
    WEIGHED,
    Calibration,
    Seen,
    with_cause,
)
from pytest_torchexport.outcomes.compare import Tolerance, compare, compare_values
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.subject import Subject

# ruff: noqa: ARG005  # an artifact may ignore what eager returned


def judged(function, call, actual, *, known=0, stateful=True, leaves_out_casts=False):
    """Return the calibrated differences between eager's value and ``actual(value)``."""
    subject = Subject.of(function)
    expected = observe(subject.function, call, seed=0)
    assert isinstance(expected, Returned), expected
    found = Returned(actual(expected.value), call)
    differences = compare(expected, found, Tolerance())
    assert differences, "the table of tolerances must fail first"
    leaves = leaves_after(expected, {}), leaves_after(found, {})
    runs = OtherRuns(subject, 0, stateful=stateful)
    calibration = Calibration(runs, leaves_out_casts=leaves_out_casts)
    return calibration.judge(differences, [call], *leaves, known=known)


def kept(function, call, actual):
    """The differences that are bugs."""
    return judged(function, call, actual).bugs


def causes(function, call, actual):
    """The causes of the differences that are no bugs."""
    found = judged(function, call, actual)
    assert found.bugs == []
    return [difference.cause for difference in found.explained]


def cancelling(x):
    """Loses most of float32's digits: (1e4 + x) - 1e4."""
    return (x + 1e4) - 1e4


def rand(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


CALL = Call((torch.linspace(0.1, 1.0, 50),))


def test_the_cause_is_told_with_the_error_in_units_of_eagers_own():
    (difference,) = judged(cancelling, CALL, lambda value: CALL.args[0].clone()).explained
    assert difference.cause == "rounding"
    assert 0 < difference.in_own_errors <= 4.0
    (bug,) = kept(cancelling, CALL, lambda value: value + 1.0)
    assert bug.cause == "bug"
    assert bug.in_own_errors > 100


def chaotic(x):
    for _ in range(60):
        x = 3.9 * x * (1 - x)
    return x


def only_in_float32(x):
    if x.dtype != torch.float32:
        raise TypeError("only float32")
    return cancelling(x)


def beside_a_chaotic_one(x):
    return torch.cat([chaotic(x), x * 3])


def in_half(x):
    return (x.half() * 3).float()


def changed(index, to):
    def change(value):
        value = value.clone()
        value[index] = to
        return value

    return change


def of(*numbers, dtype=torch.float32):
    return Call((torch.tensor(numbers, dtype=dtype),))


NUMBERS = CALL.args[0]
HALF = torch.linspace(0.1, 1.0, 20).half()
INSIDE = Call((torch.linspace(0.1, 0.9, 50),))
SIGNS = of(-1.0, 0.5, 2.0)
# More terms than any kernel adds without rounding.
LONG = {
    "normal": rand(3, 60_000),
    "positive": rand(3, 60_000) + 1,
    "equal": torch.full((3, 60_000), 0.1),
}


def loop(terms):
    """Return float32 sums along axis 1, as a loop adds them."""
    return torch.from_numpy(np.add.accumulate(terms.numpy(), 1))[:, -1]


MEANS = Call((LONG["positive"] + torch.tensor([[0.0], [1.0], [2.0]]),))
# Eager, its call, what the artifact makes of eager's result, and the cause of the difference.
CASES = {
    "eager's own error": (cancelling, CALL, lambda _: NUMBERS.clone(), "rounding"),
    "an exact computation": (lambda x: x * 2, CALL, lambda y: y + 1e-3, "bug"),
    "nan for a number": (cancelling, CALL, changed(3, math.nan), "bug"),
    "infinity for a number": (cancelling, CALL, changed(3, math.inf), "bug"),
    "a number for infinity": (torch.log, of(0.0, 1.0), lambda y: y.clamp(min=-3e38), "bug"),
    "a number beside infinity": (lambda x: x * 10, of(1e38, 1.0), changed(1, 11.0), "bug"),
    # float32 has no 1e8 + 1: there the sum is below the threshold, in float64 above it.
    "otherwise in float64": (
        lambda x: ((x + 1e8) - 1e8 > 0.5).long(),
        of(1.0),
        lambda y: 1 - y,
        "tie",
    ),
    "an index": (lambda x: x.argmax().reshape(1), CALL, lambda y: y - 1, "bug"),
    "no run in float64": (only_in_float32, CALL, lambda _: NUMBERS.clone(), "rounding"),
    "chaos": (chaotic, INSIDE, lambda y: y.flip(0), "ambiguous"),
    "a stable element beside chaos": (beside_a_chaotic_one, CALL, changed(-1, 3.01), "bug"),
    "equal scores": (
        lambda x: (x @ torch.tensor([0.1, 0.2, 0.3])).argmax(0, keepdim=True),
        Call((torch.ones(6, 3),)),
        lambda y: (y + 4) % 6,
        "tie",
    ),
    "equal inputs": (lambda x: x.argmax(1), Call((torch.ones(2, 6),)), lambda y: y + 5, "bug"),
    "on a half": (lambda x: x.round().long(), of(0.5, 1.5, 2.5), lambda y: y + 1, "bug"),
    "off a threshold": (
        lambda x: (torch.sigmoid(x) * 6.0).floor().long(),
        of(1e-4),
        lambda y: y - 1,
        "bug",
    ),
    "half precision": (
        lambda x: x + 1000 - 1000,
        Call((HALF,)),
        lambda _: HALF.clone(),
        "ambiguous",
    ),
    "complex": (
        cancelling,
        Call((torch.complex(NUMBERS, NUMBERS),)),
        lambda _: torch.complex(NUMBERS, NUMBERS),
        "rounding",
    ),
    "the dtype's epsilon": (
        lambda x: torch.log(x.relu() + torch.finfo(x.dtype).eps),
        SIGNS,
        lambda y: y.clamp(min=-13.8),
        "bug",
    ),
    "a mean in half precision": (
        lambda x: x.mean(1),
        Call((torch.ones(2, 4096, dtype=torch.bfloat16),)),
        lambda y: y * 1.3,
        "bug",
    ),
    "a cast that is left out": (in_half, CALL, lambda _: CALL.args[0] * 3, "bug"),
    "a mean of four": (
        lambda x: x.mean().round(),
        of(1.0, 1.0, 0.0, 4.0),
        lambda y: y + 1,
        "bug",
    ),
    **{
        f"a sum term by term, {name}": (
            lambda x: x.sum(1),
            Call((x,)),
            lambda _, x=x: loop(x),
            "rounding",
        )
        for name, x in LONG.items()
    },
    "a long mean in half precision": (
        lambda x: x.mean(1),
        MEANS,
        lambda _: MEANS.args[0].half().mean(1).float(),
        "bug",
    ),
    "a long mean by another divisor": (lambda x: x.mean(1), MEANS, lambda y: y / 0.96, "bug"),
    "another norm": (
        lambda x: x.norm(dim=1),
        MEANS,
        lambda _: MEANS.args[0].abs().sum(1).sqrt(),
        "bug",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_difference_has_its_cause(name):
    function, call, actual, cause = CASES[name]
    found = judged(function, call, actual)
    assert [item.cause for item in (*found.bugs, *found.explained)] == [cause]


def test_a_rounding_error_divided_by_another_may_be_infinite_but_not_the_largest_number():
    def standardized(x):
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)

    equal = Call((torch.full((2, 60_000), 0.1),))
    assert torch.isinf(standardized(*equal.args)).all()
    assert causes(standardized, equal, torch.ones_like) == ["ambiguous"]
    spread = Call((LONG["positive"],))
    assert len(kept(standardized, spread, lambda value: value / 0)) == 1
    largest = torch.finfo(torch.float32).max
    (difference,) = kept(standardized, equal, lambda value: value.clamp(-largest, largest))
    assert abs(float(difference.actual)) == pytest.approx(largest)


def test_eager_that_leaves_traces_explains_nothing():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    assert len(judged(Counts(), CALL, lambda value: value * 1.2, stateful=False).bugs) == 1


def test_the_report_tells_the_element_that_nothing_explains():
    def wrong(value):
        value = value.clone()
        value[:10] += 0.5
        value[-1] += 0.01
        return value

    (bug,) = kept(beside_a_chaotic_one, INSIDE, wrong)
    assert bug.index == (99,)
    assert bug.mismatched == 11
    assert bug.in_own_errors > 1000


def runs_of(function, actual, *, known=WEIGHED):
    """Return how often eager is run to judge what ``actual`` returns, and the bugs."""
    made = []

    def counted(x):
        made.append(None)
        return function(x)

    bugs = judged(counted, CALL, actual, known=known).bugs
    return len(made), bugs


def test_what_no_rounding_can_explain_is_judged_by_a_few_runs():
    few, far = runs_of(torch.sigmoid, lambda value: value + 1.0)
    more, near = runs_of(torch.sigmoid, lambda value: value + 1e-4)
    assert [item.cause for item in (*far, *near)] == ["bug", "bug"]
    assert few < more
    # A verdict is never told by a few, and what is no number may be another order of a sum.
    assert runs_of(torch.sigmoid, lambda value: value + 1.0, known=0)[0] == more
    assert runs_of(torch.sigmoid, lambda value: value / 0)[0] == more


def products(x):
    half = x.half()
    return (half @ half.T).float()


WAVES = Call((torch.linspace(-1, 1, 32).reshape(4, 8).sin(),))
# ONNX Runtime leaves out casts around operators of half precision that it has no kernel for:
# eager, its call, another function, and the cause of the difference to its result.
CASTS = {
    "no cast": (in_half, CALL, lambda x: x * 3, "rounding"),
    # MatMul takes the numbers before the cast, and those that Transpose has behind it.
    "a cast for one operator": (products, WAVES, lambda x: x @ x.half().float().T, "rounding"),
    "another product": (products, WAVES, lambda x: x @ x.T * 1.02, "bug"),
    "another type": (in_half, CALL, lambda x: (x.bfloat16() * 3).float(), "bug"),
    "another factor": (in_half, CALL, lambda x: x * 3.02, "bug"),
    "where it decides": (
        lambda x: (x.half() == x).float(),
        CALL,
        lambda x: (x == x).float(),
        "bug",
    ),
    "where it is all": (lambda x: x - x.half(), CALL, lambda x: x * 0, "bug"),
}


@pytest.mark.parametrize("name", CASTS)
def test_casts_that_a_runtime_leaves_out_are_rounding_and_no_other_result_is(name):
    function, call, other, cause = CASTS[name]
    found = judged(function, call, lambda _: other(call.args[0]), leaves_out_casts=True)
    assert [item.cause for item in (*found.bugs, *found.explained)] == [cause]


EAGER = torch.tensor([1.0, 2.0, 3.0])
# Eager's error on each element.
OWN = 2.0**-10


def caused(wanted, found, *others, truth=None):
    (difference,) = compare_values(wanted, found, Tolerance(0.0, 0.0))
    runs = Runs({"output": truth}, [{"output": other} for other in others])
    return with_cause(Seen.of(difference, wanted, found, runs))


@pytest.mark.parametrize(("times", "cause"), [(MULTIPLE, "rounding"), (2 * MULTIPLE, "bug")])
def test_a_few_of_eagers_own_errors_are_rounding_and_more_are_a_bug(times, cause):
    found = caused(EAGER, EAGER + times * OWN, EAGER + OWN)
    assert (found.cause, found.own_error) == (cause, OWN)


def test_the_run_in_float64_counts_unless_it_computes_something_else():
    found = EAGER + 2 * OWN
    assert caused(EAGER, found, EAGER, truth=EAGER.double() + OWN).cause == "bug"
    assert caused(EAGER, found, EAGER + OWN / 8, truth=EAGER.double() + OWN).cause == "rounding"
