"""eager/remembered.py: what eager did with a call is told once for each time that it was run."""

from __future__ import annotations

import itertools
import warnings

import torch

from pytest_torchexport.eager import remembered
from pytest_torchexport.eager.remembered import Remembered
from pytest_torchexport.explore.operator_run import Recorded
from pytest_torchexport.inputs.call import Call
from pytest_torchexport.outcomes.observe import Returned

CALL, OTHER = Call((torch.ones(2),)), Call((torch.zeros(2),))


def key_of(call):
    return str(call.args)


def counted():
    numbers = itertools.count(1)
    return lambda: next(numbers)


def test_the_second_run_of_a_call_is_told_of_the_second():
    first = Remembered(key_of)
    run = counted()
    assert [first.run("sum", CALL, run) for _ in range(2)] == [1, 2]
    later = Remembered(key_of, first)
    assert [later.run("sum", CALL, run) for _ in range(3)] == [1, 2, 3]
    again = Remembered(key_of, later)
    assert [again.run("sum", CALL, run) for _ in range(4)] == [1, 2, 3, 4]


def test_another_call_and_another_function_are_run():
    first = Remembered(key_of)
    run = counted()
    first.run("sum", CALL, run)
    later = Remembered(key_of, first)
    assert later.run("sum", OTHER, run) == 2
    assert later.run("mean", CALL, run) == 3
    assert later.run("sum", CALL, run) == 1


def test_a_call_that_cannot_be_told_from_others_is_run():
    first = Remembered(lambda _: None)
    first.run("sum", CALL, counted())
    assert Remembered(lambda _: None, first).run("sum", CALL, lambda: "ran") == "ran"


def test_what_was_forgotten_is_run():
    first = Remembered(key_of)

    def forgetful():
        first.forget()
        return "first"

    assert first.run("sum", CALL, forgetful) == "first"
    assert first.run("sum", CALL, lambda: "ran") == "ran"
    assert first.is_forgotten
    assert Remembered(key_of, first).run("sum", CALL, lambda: "ran") == "ran"


def test_warnings_are_told_too():
    first = Remembered(key_of)
    for item in (first, Remembered(key_of, first)):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            item.run("sum", CALL, lambda: warnings.warn("odd sizes", stacklevel=1))
        assert [str(each.message) for each in heard] == ["odd sizes"]


def test_the_tables_of_a_record_of_operators_count_too():
    first = Remembered(key_of)
    tables = {("bucketize", 0): torch.ones(3)}
    record = Recorded(near={}, merges=frozenset(), tables=tables, ran=True)
    first.run("operators", CALL, lambda: record)
    assert first.bytes == 12


def test_an_outcome_too_large_to_keep_is_not_taken_for_a_later_one(monkeypatch):
    monkeypatch.setattr(remembered, "MOST_BYTES", 12)
    first = Remembered(key_of)
    small, large = (Returned(torch.ones(n), Call()) for n in (2, 4))
    runs = iter([large, small, small])
    assert first.run("sum", CALL, lambda: next(runs)) is large
    assert first.run("sum", OTHER, lambda: next(runs)) is small
    assert first.run("sum", CALL, lambda: next(runs)) is small
    assert first.bytes == 8
    later = Remembered(key_of, first)
    ran = Returned(torch.ones(1), Call())
    assert later.run("sum", CALL, lambda: ran) is ran
    assert later.run("sum", OTHER, lambda: ran) is small
