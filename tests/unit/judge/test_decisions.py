"""judge/decisions.py: what eager and the artifact decide on is compared bit for bit."""

from __future__ import annotations

import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.decisions import Decisions, Places, seen
from pytest_torchexport.judge.other_runs import OtherRuns, leaves_after
from pytest_torchexport.judge.rounding import Calibration
from pytest_torchexport.outcomes.compare import Tolerance, compare
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.subject import Subject

ROW = torch.linspace(-0.9, 1.1, 6).reshape(2, 3)


def causes(eager, artifact, *tensors, usual=ROW):
    """Return what calibration makes of each difference, if torch's operators run the artifact."""
    subject, call = Subject.of(eager), Call(tensors)

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
    calibration = Calibration(
        OtherRuns(subject, 0), shown=shown, usual=lambda: [Call((usual,) * len(tensors))]
    )
    found = calibration.judge(
        differences, [call], leaves_after(expected, {}), leaves_after(actual, {})
    )
    return [item.cause for item in (*found.bugs, *found.explained)]


# sigmoid(17.5) is one in float32, and less in float64.
SATURATED = torch.tensor([[17.5, 1.0, 17.6], [0.5, 17.7, 17.5]])


def test_another_comparison_of_equal_operands_is_no_tie():
    def reaches_one(x):
        return torch.sigmoid(x) >= 1.0

    def exceeds_one(x):
        return torch.sigmoid(x) > 1.0

    assert causes(reaches_one, exceeds_one, SATURATED) == ["bug"]


def test_a_comparison_of_operands_that_differ_in_their_last_digits_is_a_tie():
    def reaches_one(x):
        return torch.sigmoid(x) >= 1.0

    def just_below(x):
        return torch.sigmoid(x) * (1 - 1.2e-7) >= 1.0

    assert causes(reaches_one, just_below, SATURATED) == ["tie"]


def test_eager_is_run_on_the_artifacts_own_digits_where_no_other_run_of_it_falls_so():
    def cells(x):
        return (torch.sigmoid(x) * 6.0).floor().long()

    def near(x):
        return (torch.sigmoid(x) * 6.0 - torch.tensor([0.0, 1e-6, 0.0])).floor().long()

    def far(x):
        return (torch.sigmoid(x) * 6.0 - torch.tensor([0.0, 1e-4, 0.0])).floor().long()

    just_above_three = torch.tensor([[1e-6, 1e-7, 2e-6]])
    assert causes(cells, near, just_above_three) == ["tie"]
    assert causes(cells, far, just_above_three) == ["bug"]


def test_a_number_next_to_a_half_point_may_be_cast_to_either_side():
    def cast(x):
        return torch.exp(x).bfloat16().float()

    def near(x):
        return (torch.exp(x) * (1 + 4e-7)).bfloat16().float()

    def far(x):
        return (torch.exp(x) * (1 + 4e-6)).bfloat16().float()

    # Further below half points of bfloat16 than other runs of eager move them.
    half_points = 1 + torch.arange(1, 12, 2, dtype=torch.float64).reshape(2, 3) / 256
    just_below = (half_points * (1 - 2.5e-7)).log().float()
    assert causes(cast, near, just_below) == ["rounding"]
    assert causes(cast, far, just_below) == ["bug"]


def test_another_cast_of_equal_numbers_is_no_rounding():
    def cast(x):
        return torch.exp(x).bfloat16().float()

    def twice(x):
        return torch.exp(x).half().bfloat16().float()

    def towards_zero(x):
        bits = torch.exp(x).view(torch.int32)
        return (bits & -65536).view(torch.float32)

    def not_at_all(x):
        return torch.exp(x)

    many = torch.linspace(-2.0, 2.0, 300).reshape(100, 3)
    for other in (twice, towards_zero, not_at_all):
        assert causes(cast, other, many) == ["bug"], other.__name__


def test_a_value_that_the_artifact_does_not_have_is_left_to_rounding():
    def reaches_one(x):
        return torch.sigmoid(x) >= 1.0

    assert causes(reaches_one, lambda x: x > 100.0, SATURATED) == ["tie"]


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
