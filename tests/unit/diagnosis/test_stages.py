"""diagnosis/stages.py: the owner is who made the first wrong stage of the last right one."""

from __future__ import annotations

import pytest

from pytest_torchexport.diagnosis.stages import (
    EXPORTED,
    OPTIMIZED,
    REFERENCE,
    SHIPPED,
    TRANSLATED,
    guilty,
    owner_of,
)
from pytest_torchexport.results.diagnosis import Stage
from pytest_torchexport.targets.upstream import onnx_optimizers

NAMES = [one for name, rules in onnx_optimizers().items() for one in rules or (name,)]

ORDER = (EXPORTED, REFERENCE, TRANSLATED, OPTIMIZED, SHIPPED)
YES, NO, OPEN, UNTRIED = "yes", "no", "?", "-"
AGREES = {YES: True, NO: False, OPEN: None}


@pytest.mark.parametrize(
    ("results", "owner"),
    [
        ([UNTRIED, UNTRIED, UNTRIED, YES, NO], "runtime's optimizer"),
        ([YES, UNTRIED, YES, NO, NO], "exporter's optimizer"),
        ([YES, YES, NO, NO, NO], "runtime"),
        ([YES, NO, NO, NO, NO], "translation"),
        ([NO, UNTRIED, UNTRIED, NO, NO], "capture"),
        # onnx.reference has faults of its own: what comes after it is right.
        ([YES, NO, YES, NO, NO], "exporter's optimizer"),
        # What lies between cannot be told apart.
        ([YES, OPEN, NO, NO, NO], None),
        ([OPEN, OPEN, OPEN, YES, NO], "runtime's optimizer"),
    ],
)
def test_the_owner_lies_between_the_last_right_stage_and_the_next(results, owner):
    stages = [
        Stage(name=name, agrees=AGREES[result])
        for name, result in zip(ORDER, results, strict=True)
        if result != UNTRIED
    ]
    assert owner_of(stages) == owner


# -- the optimizer to blame ------------------------------------------------------------------------


def named(wrong):
    """Return the optimizer that is named of a runtime that is wrong if ``wrong(enabled)``."""
    sessions = []

    def is_right(disabled):
        sessions.append(disabled)
        return not wrong({*NAMES} - {*disabled})

    found = guilty(is_right)
    assert len(sessions) <= 18
    return found


@pytest.mark.parametrize("name", [NAMES[0], NAMES[-1]])
def test_the_guilty_optimizer_is_named(name):
    assert named(lambda enabled: name in enabled) == name


def test_of_two_that_work_together_the_later_is_named():
    assert named(lambda enabled: {"ConstantFolding", "GeluFusionL2"} <= enabled) == "GeluFusionL2"


def test_neither_of_two_nor_one_that_the_table_lacks_is_guessed():
    assert named(lambda enabled: {"MatMulAddFusion", "GeluFusionL2"} & enabled) is None
    assert named(lambda _: True) is None
