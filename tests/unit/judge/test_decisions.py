"""judge/decisions.py: what eager and the artifact decide on is compared bit for bit."""

from __future__ import annotations

import pytest
import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.decisions import Decisions, Places, seen
from pytest_torchexport.judge.other_runs import OtherRuns, leaves_after
from pytest_torchexport.judge.rounding import Calibration
from pytest_torchexport.outcomes.compare import Tolerance, compare
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.subject import Subject

ROW = torch.linspace(-0.9, 1.1, 6).reshape(2, 3)


def causes(eager, artifact, tensor):
    """Return what calibration makes of each difference, if torch's operators run the artifact."""
    subject, call = Subject.of(eager), Call((tensor,))

    def shown(call, see):
        def run(go):
            with seen(see):
                return go()

        return observe(artifact, call, seed=0, run=run)

    expected, actual = (observe(function, call, seed=0) for function in (eager, artifact))
    assert isinstance(expected, Returned)
    assert isinstance(actual, Returned)
    differences = compare(expected, actual, Tolerance())
    assert differences, "there must be something to explain"
    calibration = Calibration(OtherRuns(subject, 0), shown=shown, usual=lambda: [Call((ROW,))])
    found = calibration.judge(
        differences, [call], leaves_after(expected, {}), leaves_after(actual, {})
    )
    return [item.cause for item in (*found.bugs, *found.explained)]


# sigmoid(17.5) is one in float32, and less in float64.
SATURATED = torch.tensor([[17.5, 1.0, 17.6], [0.5, 17.7, 17.5]])


def reaches_one(x):
    return torch.sigmoid(x) >= 1.0


def cells(x):
    return (torch.sigmoid(x) * 6.0).floor().long()


def cells_below(*less):
    return lambda x: (torch.sigmoid(x) * 6.0 - torch.tensor(less)).floor().long()


def cast(x):
    return torch.exp(x).bfloat16().float()


def cast_above(factor):
    return lambda x: (torch.exp(x) * factor).bfloat16().float()


def cast_towards_zero(x):
    return (torch.exp(x).view(torch.int32) & -65536).view(torch.float32)


ABOVE_THREE = torch.tensor([[1e-6, 1e-7, 2e-6]])
# Further below half points of bfloat16 than other runs of eager move them.
HALF_POINTS = 1 + torch.arange(1, 12, 2, dtype=torch.float64).reshape(2, 3) / 256
BELOW_HALF_POINTS = (HALF_POINTS * (1 - 2.5e-7)).log().float()
MANY = torch.linspace(-2.0, 2.0, 300).reshape(100, 3)
# Eager, the artifact, the operand, and the cause of the difference.
CASES = {
    "another comparison of equal operands": (
        reaches_one,
        lambda x: torch.sigmoid(x) > 1.0,
        SATURATED,
        "bug",
    ),
    "operands that differ in their last digits": (
        reaches_one,
        lambda x: torch.sigmoid(x) * (1 - 1.2e-7) >= 1.0,
        SATURATED,
        "tie",
    ),
    "a value that the artifact does not have": (reaches_one, lambda x: x > 100.0, SATURATED, "tie"),
    # No other run of eager falls so: it is run on the artifact's own digits.
    "digits of the artifact": (cells, cells_below(0.0, 1e-6, 0.0), ABOVE_THREE, "tie"),
    "digits too far away": (cells, cells_below(0.0, 1e-4, 0.0), ABOVE_THREE, "bug"),
    "a cast next to a half point": (cast, cast_above(1 + 4e-7), BELOW_HALF_POINTS, "rounding"),
    "a cast across a half point": (cast, cast_above(1 + 4e-6), BELOW_HALF_POINTS, "bug"),
    "a cast by way of another": (
        cast,
        lambda x: torch.exp(x).half().bfloat16().float(),
        MANY,
        "bug",
    ),
    "a cast towards zero": (cast, cast_towards_zero, MANY, "bug"),
    "no cast": (cast, torch.exp, MANY, "bug"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_decided_on_operands_has_its_cause(name):
    eager, artifact, operand, cause = CASES[name]
    assert causes(eager, artifact, operand) == [cause]


def test_operands_are_found_where_the_artifact_has_about_the_same_numbers():
    def eager(x):
        return (x * 0.3 + 1.0).floor()

    def artifact(see):
        with seen(see):
            scaled = ROW * 0.3
            torch.floor(scaled + 1.0)

    decisions = Decisions()
    with decisions.recorded():
        eager(ROW)
    places = Places()
    places.learn(decisions, artifact)
    assert places.names() == {"floor 1 0"}
    values = {"floor 1 0": decisions.operands["floor", 1, 0].clone()}
    values["floor 1 0"][0, 0] += 1e-6
    held = places.held(decisions, values)
    assert held.operands["floor", 1, 0].same.tolist() == [[False, True, True], [True, True, True]]
    assert places.held(decisions, {}).operands == {}


def test_casts_to_integers_decide_and_roundings_to_decimals_do_not():
    decisions = Decisions()
    with decisions.recorded():
        y = ROW * 3.0
        y.long(), y.double(), y.round(decimals=2), y.round(), torch.div(y, 2.0)
        torch.div(y, 2.0, rounding_mode="floor"), y.clone().floor_(), y.long() > 1
    assert list(decisions.operands) == [
        ("_to_copy", 1, 0),
        ("round", 2, 0),
        ("div", 2, 0),
        ("floor", 1, 0),
        ("_to_copy", 3, 0),
    ]
