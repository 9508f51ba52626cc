"""diagnosis/onnx_switches.py: the optimizers to disable are found by a few sessions."""

from __future__ import annotations

import pytest

from pytest_torchexport.diagnosis.onnx_switches import guilty
from pytest_torchexport.targets.formats.onnx_optimizers import OPTIMIZERS, RULES

CONTAINER = "Level1_RuleBasedTransformer"


class Runtime:
    """A runtime that is wrong if ``wrong(enabled)``; ``sessions`` counts how often it was asked."""

    def __init__(self, wrong):
        self.wrong = wrong
        self.sessions = 0

    def is_right(self, disabled):
        self.sessions += 1
        names = {*OPTIMIZERS, *RULES[CONTAINER]} - set(disabled)
        if CONTAINER in disabled:
            names -= set(RULES[CONTAINER])
        return not self.wrong(names)


def named(runtime):
    return tuple(each.name for each in guilty(runtime.is_right))


@pytest.mark.parametrize("name", [OPTIMIZERS[1], "GeluFusionL2", OPTIMIZERS[-1], "Pad_Fusion"])
def test_one_guilty_optimizer_is_named(name):
    runtime = Runtime(lambda enabled: name in enabled)
    assert named(runtime) == (name,)
    assert runtime.sessions <= 18


def test_of_two_that_work_together_the_later_is_named():
    both = {"ConstantFolding", "GeluFusionL2"}
    assert named(Runtime(lambda enabled: both <= enabled)) == ("GeluFusionL2",)


def test_two_that_are_wrong_each_by_itself_are_named_both():
    either = {"MatMulAddFusion", "GeluFusionL2"}
    assert named(Runtime(lambda enabled: either & enabled)) == ("MatMulAddFusion", "GeluFusionL2")


def test_an_optimizer_that_the_table_lacks_is_not_guessed():
    assert named(Runtime(lambda _: True)) == ()
