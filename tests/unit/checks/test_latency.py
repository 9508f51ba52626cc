"""checks/latency.py: what the times of pairs say, for times that a test chose."""

from __future__ import annotations

import pytest

from pytest_torchexport.checks import latency
from pytest_torchexport.checks.latency import Pairs, TooSlow, timed_in_turn


def pairs(*ratios):
    return Pairs([0.5] * len(ratios), [0.5 * ratio for ratio in ratios])


def test_a_clear_slowdown_exceeds_a_limit_below_it_alone():
    found = pairs(*[1.9, 2.0, 2.1] * 10)
    assert found.interval == pytest.approx((1.9, 2.1))
    assert found.exceeds(1.5)
    assert not found.exceeds(1.95)


def test_a_constant_time_is_taken_from_the_other_alone():
    found = pairs(*[1.9, 2.0, 2.1] * 10).without(0.25)
    assert found.ratios == pytest.approx([1.4, 1.5, 1.6] * 10)


def test_few_pairs_decide_nothing_unless_all_agree():
    assert pairs(*[2.0] * 10).exceeds(1.5)
    assert not pairs(*[2.0] * 9).exceeds(1.5)
    assert not pairs(*[2.0] * 9, 1.0).exceeds(1.5)


def test_the_interval_has_to_lie_above_as_well():
    # The sign test alone would say it: 26 of 30 pairs are slower.
    found = pairs(*[2.0] * 26, *[0.9] * 4)
    assert not found.exceeds(1.0)


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
    found = timed_in_turn(lambda: None, lambda: None, seconds=0.0)
    assert isinstance(found, TooSlow)
    assert found.seconds > 0


def test_calls_are_timed():
    found = timed_in_turn(lambda: None, lambda: sum(range(1000)), seconds=60.0)
    assert len(found.ones) == latency.MOST
    assert all(seconds > 0 for seconds in (*found.ones, *found.others))
