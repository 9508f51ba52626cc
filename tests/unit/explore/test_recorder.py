"""explore/recorder.py: evaluates each condition as Python would, once, and records it."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_torchexport.explore.recorder import (
    MAX_EVENTS,
    MAX_KEYS,
    OPERATORS,
    ConditionRecorder,
    Endless,
)


@pytest.fixture
def recorder():
    made = ConditionRecorder()
    made.start({})
    return made


def ask(recorder, number, times):
    for _ in range(times):
        recorder.truth(number, 1, 0)


def test_a_comparison_that_is_a_value_returns_what_it_did(recorder):
    found = recorder.compared(1, ">", np.float64(3.0), 2.0, 0)
    assert isinstance(found, np.bool_)
    assert found
    assert (recorder.compared(1, "==", 3, 2, 0), recorder.compared(1, "in", 3, (3, 4), 0)) == (
        False,
        True,
    )
    assert told(recorder) == [(1, True), (1, False), (1, True)]


@pytest.mark.parametrize("keys", [5, MAX_KEYS + 1])
def test_a_key_is_looked_up_and_in_a_long_table_not_searched_for(recorder, keys):
    table = dict.fromkeys(range(0, 10 * keys, 10), "there")
    assert recorder.decided(1, table.get, (20, "x"), 0) == "there"
    assert recorder.decided(1, table.get, (21, "x"), 0) == "x"
    assert told(recorder) == ([(1, True), (1, False)] if keys <= MAX_KEYS else [(1, True)])


def test_texts_and_tuples_are_keys_too(recorder):
    table = {"n4": 1.0, (4, 3): 2.0}
    found = [recorder.decided(1, table.get, (key, 0.0), 0) for key in ("n4", (4, 3), "n5", (5, 3))]
    assert found == [1.0, 2.0, 0.0, 0.0]
    assert told(recorder) == [(1, True), (1, True), (1, False), (1, False)]


def told(recorder):
    return [(event.key[0], event.outcome) for event in recorder.path.events]


VALUES = st.one_of(
    st.integers(-3, 3), st.floats(allow_nan=True), st.booleans(), st.none(), st.text(max_size=2)
)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(sorted(OPERATORS)), VALUES, st.one_of(VALUES, st.lists(VALUES, max_size=3)))
def test_comparisons_are_those_of_python(sign, left, right):
    recorder = ConditionRecorder()
    recorder.start({})

    def came(compute):
        try:
            return compute()
        except TypeError as error:
            return str(error)

    names = {"left": left, "right": right}
    expected = came(lambda: bool(eval(f"left {sign} right", names)))
    assert came(lambda: recorder.compare(1, sign, left, right, 0)) == expected
    assert told(recorder) == ([(1, expected)] if isinstance(expected, bool) else [])


@pytest.mark.parametrize("method", ["truth", "value"])
def test_a_truth_is_that_of_python(recorder, method):
    for value in (0, 1, "", "a", [], [0], None, 0.0, math.nan, torch.tensor(0.5), torch.zeros(1)):
        found = getattr(recorder, method)(1, value, 0)
        assert found is (bool(value) if method == "truth" else value)
        assert recorder.path.events[-1].outcome == bool(value)


def test_what_raises_is_not_told_and_harms_nothing(recorder):
    with pytest.raises(RuntimeError, match="ambiguous"):
        recorder.truth(1, torch.ones(3), 0)
    with pytest.raises(TypeError):
        recorder.compare(1, "<", "a", 1, 0)
    assert told(recorder) == []
    assert recorder.truth(1, torch.ones(1), 0) is True
    assert told(recorder) == [(1, True)]


def test_numbers_have_a_distance_which_no_rounding_decides(recorder):
    recorder.compare(1, ">", 3, 5.5, 0)
    (event,) = recorder.path.events
    assert (event.far, event.margin, event.on_tensors) == (2.5, math.inf, False)


def test_of_floats_in_order_the_distance_in_parts_of_the_largest_is_told(recorder):
    def margin(left, right):
        recorder.start({})
        with recorder.mode:
            recorder.truth(1, torch.tensor(left) > right, 0)
        return recorder.path.events[0].margin

    assert margin(100.0, 98.0) == 0.02
    assert margin(0.0, 0.0) == 0.0
    assert margin(math.inf, 4.0) == math.inf
    assert margin(3, 2) == math.inf


# -- who is listened to ------------------------------------------------------------------------------------------


def test_the_module_is_the_innermost_of_which_a_method_runs(recorder):
    def helper(*parts):
        recorder.truth(1, 1, 0)
        for part in parts:
            part.asks()

    class Part:
        def asks(self, *parts):
            recorder.truth(1, 1, 0)
            helper(*parts)

    outer, inner = Part(), Part()
    recorder.start({id(outer): "outer", id(inner): "inner"})
    helper()
    outer.asks(inner, Part())
    names = [event.key[1] for event in recorder.path.events]
    assert names == ["", "outer", "outer", "inner", "inner", "outer", "outer"]


def test_another_thread_gets_what_python_would_and_tells_nothing(recorder):
    results = []

    def other():
        results.append(recorder.truth(1, [0], 0))
        results.append(recorder.compare(1, "<", 1, 2, 0))
        results.append(recorder.value(1, "v", 0))
        recorder.mark(4, True)
        items = [1, 2]
        results.append(recorder.each(2, items) is items)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert results == [True, True, "v", True]
    assert told(recorder) == []
    assert recorder.path.loops == {}
    recorder.stop()
    assert recorder.truth(1, 5, 0) is True
    assert told(recorder) == []


# -- where it ends -----------------------------------------------------------------------------------------------


def test_too_many_conditions_are_endless_once_it_is_known_how_many_are_usual(recorder):
    for _ in range(MAX_EVENTS + 5):
        recorder.truth(1, 1, 0)
    recorder.start({})
    recorder.truth(1, 1, 0)
    recorder.limit(20)
    recorder.start({})
    recorder._started -= 1000.0  # seconds ago
    with pytest.raises(Endless):
        ask(recorder, 1, MAX_EVENTS + 1)
    assert len(told(recorder)) == MAX_EVENTS


def test_what_is_done_quickly_is_not_endless(recorder):
    recorder.limit(20)
    recorder._started += 1000.0
    ask(recorder, 1, MAX_EVENTS * 2)
    assert len(told(recorder)) == MAX_EVENTS * 2
