"""checks/latency.py: what the times of pairs say, for times that a test chose."""

from __future__ import annotations

import pytest

from pytest_torchexport.checks import latency
from pytest_torchexport.checks.latency import Pairs, timed_in_turn


def pairs(*ratios):
    return Pairs([0.5] * len(ratios), [0.5 * ratio for ratio in ratios])


def test_the_interval_holds_the_middle_of_the_ratios():
    assert pairs(*[1.9, 2.0, 2.1] * 10).interval == pytest.approx((1.9, 2.1))
    # 26 of 30 pairs are slower: the low end is not.
    assert pairs(*[2.0] * 26, *[0.9] * 4).interval[0] == pytest.approx(0.9)


def test_of_the_fewest_pairs_two_may_be_fast_by_chance():
    assert pairs(*[2.0] * (latency.FEWEST - 2), 0.9, 0.9).interval[0] > 1.5
    assert pairs(*[2.0] * (latency.FEWEST - 3), 0.9, 0.9, 0.9).interval[0] < 1.5


def test_a_constant_time_is_taken_from_the_other_alone():
    found = pairs(*[1.9, 2.0, 2.1] * 10).without(0.25)
    assert found.ratios == pytest.approx([1.4, 1.5, 1.6] * 10)


def test_both_are_timed_in_turn_and_each_is_first_as_often(monkeypatch):
    made = []

    def side(run):
        name = run()
        return type("Side", (), {"seconds": 0.0, "time": lambda _: made.append(name) or 1.0})()

    monkeypatch.setattr(latency, "_Side", side)
    found = timed_in_turn(lambda: "one", lambda: "other", seconds=60.0)
    assert made == ["one", "other", "other", "one"] * (latency.MOST // 2)
    assert len(found.ones) == len(found.others) == latency.MOST
    made.clear()
    assert len(timed_in_turn(lambda: "one", lambda: "other", seconds=0.0).ones) == latency.FEWEST


def test_calls_that_take_too_long_are_not_timed():
    assert timed_in_turn(lambda: None, lambda: None, seconds=0.0) is None
