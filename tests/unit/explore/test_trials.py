"""explore/trials.py: what calls show about a condition."""

from __future__ import annotations

from pytest_torchexport.explore.trials import VALUES, Seen


def test_a_condition_that_is_met_more_often_does_not_vary():
    seen = Seen()
    for marks in ((1, 1), (1,), (1, 1, 1)):
        seen.compare(marks, {"batch": 2})
    assert not seen.varies
    seen.compare((1, 2), {"batch": 2})
    assert seen.varies
    assert seen.steers == {VALUES}
