"""diagnosis/fatal.py: what a fork wrote of its steps is there when it has ended."""

from __future__ import annotations

import os
import time

import pytest

from pytest_torchexport.diagnosis.fatal import LastStep
from pytest_torchexport.outcomes.fork import FORKS, Death, in_fork

pytestmark = pytest.mark.skipif(not FORKS, reason="a fork shares the memory")


def dies(last):
    with last.step("first, which is long"):
        pass
    with last.step("second"):
        os._exit(3)


def test_the_step_in_which_a_fork_ended_itself_is_known():
    last = LastStep()
    assert last.read()[0] == 0
    assert in_fork(lambda: dies(last), 10) == Death(status=3)
    assert last.read()[:2] == (2, "second")


def test_a_step_that_returned_is_told_from_one_that_runs():
    last = LastStep()

    def hangs():
        with last.step("x" * 10_000):
            pass
        time.sleep(60)

    assert isinstance(in_fork(hangs, 0.3), Death)
    assert last.read()[:2] == (1, "")
