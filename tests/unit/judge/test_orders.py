"""judge/orders.py: eager takes equal elements as the artifact does, and in no other order."""

from __future__ import annotations

import pytest
import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.orders import seen
from pytest_torchexport.judge.other_runs import OtherRuns, leaves_after
from pytest_torchexport.judge.rounding import Calibration
from pytest_torchexport.outcomes.compare import Tolerance, compare
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.subject import Subject


def causes(eager, artifact, *tensors, usual):
    """Return each difference, calibrated, if torch's operators run the artifact."""
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


# Of which two and three are equal.
TIED = torch.tensor([[2.0, 1.0, 2.0, 0.0], [3.0, 3.0, 1.0, 3.0]])
DISTINCT = torch.linspace(-0.9, 1.1, 8).reshape(2, 4)


def first_two(x):
    return x.topk(2, 1).indices


def last_two(x):
    return 3 - x.flip(1).topk(2, 1).indices


def kept(x, places):
    return torch.zeros_like(x).scatter(1, places, 1.0)


@pytest.mark.parametrize(
    ("eager", "artifact", "bug"),
    [
        (first_two, last_two, False),
        (lambda x: kept(x, first_two(x)), lambda x: kept(x, last_two(x)), False),
        # All that are as large as the second, which may be more than two.
        (
            lambda x: kept(x, first_two(x)),
            lambda x: (x >= x.topk(2, 1).values[:, 1:]).float(),
            True,
        ),
        # Each output is of an order, and both of none.
        (
            lambda x: (first_two(x), first_two(x) * 10),
            lambda x: (first_two(x), last_two(x) * 10),
            False,  # eager chooses twice
        ),
        (
            lambda x: tuple(first_two(x)[None] * torch.tensor([1, 10])[:, None, None]),
            lambda x: (first_two(x), last_two(x) * 10),
            True,
        ),
    ],
)
def test_eager_orders_equal_elements_as_the_artifact_does(eager, artifact, bug):
    found = causes(eager, artifact, TIED, usual=DISTINCT)
    assert ("bug" in found) is bug
