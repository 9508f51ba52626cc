"""diagnosis/fatal.py: what a fork wrote of its steps is there when it has ended."""

from __future__ import annotations

import os
from multiprocessing.sharedctypes import RawValue

import pytest

from pytest_torchexport.diagnosis.fatal import LastStep
from pytest_torchexport.outcomes.fork import FORKS, Death, in_fork

pytestmark = pytest.mark.skipif(not FORKS, reason="a fork shares the memory")


@pytest.mark.parametrize(("ends_inside", "seen"), [(True, (2, b"second")), (False, (2, b""))])
def test_the_step_in_which_a_fork_ended_itself_is_told_from_one_that_returned(ends_inside, seen):
    last = RawValue(LastStep)

    def dies():
        with last.step("first"):
            pass
        with last.step("second" if ends_inside else "x" * 10_000):
            if ends_inside:
                os._exit(3)
        os._exit(3)

    assert last.number == 0
    assert in_fork(dies, 10) == Death(status=3)
    assert (last.number, last.name) == seen
