"""results/pictures.py: what is drawn, as plain numbers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import sample_run

from pytest_torchexport.results.pictures import error_scale, size_map, time_bars
from pytest_torchexport.results.size_pattern import Sizes

DIFFERENCE = sample_run.FROZEN.differences[0]


def test_a_map_has_every_size_in_order_and_marks_the_example():
    found = size_map(Sizes(dim="n", example=4, ok=(1, 4), failing=(16, 2)))
    assert found.cells == [(1, False, False), (2, True, False), (4, False, True), (16, True, False)]
    assert found.words == "n: ok at 1, 4 (the example's); fails at 16, 2"


def test_a_scale_has_whole_decades_around_its_marks():
    scale = error_scale(DIFFERENCE)
    assert scale is not None
    assert [(mark.kind, mark.value) for mark in scale.marks] == [
        ("own", 2.4e-7),
        ("allowed", pytest.approx(1e-5 + 1.3e-6 * 1.666667)),
        ("worst", 0.3333),
    ]
    assert [power for power, _ in scale.ticks] == [-7, -5, -3, -1]
    assert 0 <= scale.marks[0].at < scale.marks[1].at < scale.marks[2].at <= 1
    assert scale.marks[2].at == pytest.approx((7 + math.log10(0.3333)) / 7)
    assert scale.times == pytest.approx(0.3333 / 2.4e-7)


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"own_error": None}, ["allowed", "worst"]),
        ({"own_error": 0.0}, ["allowed", "worst"]),
        ({"expected": "True", "own_error": None}, None),
        ({"expected": "(1+2j)", "own_error": None}, ["allowed", "worst"]),
        ({"expected": "nan"}, ["own", "worst"]),
        ({"max_abs": math.inf}, None),
        ({"max_abs": math.nan}, None),
        ({"max_abs": None}, None),
        ({"max_abs": 1.0, "own_error": 1.0, "rtol": None, "atol": None}, ["own", "worst"]),
        ({"max_abs": 1e308, "own_error": 5e-324}, ["own", "allowed", "worst"]),
    ],
)
def test_a_scale_has_only_what_is_known_and_can_be_drawn(fields, kinds):
    scale = error_scale(dataclasses.replace(DIFFERENCE, **fields))
    if kinds is None:
        assert scale is None
        return
    assert scale is not None
    assert [mark.kind for mark in scale.marks] == kinds
    assert all(0 <= mark.at <= 1 for mark in scale.marks)
    assert 1 < len(scale.ticks) <= 7


def test_steps_that_take_little_of_the_time_are_one_bar():
    bars = time_bars({"a": 0.01, "b": 6.0, "c": 3.98, "d": 0.01})
    assert [bar.step for bar in bars] == ["b", "c", "2 more steps"]
    assert bars[-1].seconds == pytest.approx(0.02)
    assert bars[0].width > bars[1].width > bars[2].width >= 1


def test_no_time_is_no_bar():
    assert time_bars({}) == []
    assert time_bars({"a": 0.0}) == []
