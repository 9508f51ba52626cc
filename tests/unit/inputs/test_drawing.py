"""inputs/drawing.py: how many calls are drawn."""

from __future__ import annotations

import hypothesis
import pytest

from pytest_torchexport.config.options import Options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.inputs.drawing import examples


@pytest.mark.parametrize(
    ("flag", "marker", "ini", "count"),
    [(3, 7, 9, 3), (None, 7, 9, 7), (None, None, 9, 9), (None, None, None, 20)],
)
def test_the_flag_goes_before_the_marker_and_the_ini_file_before_the_profile(
    flag, marker, ini, count
):
    hypothesis.settings.register_profile("forty", max_examples=40)
    before = hypothesis.settings.get_current_profile_name()
    hypothesis.settings.load_profile("forty")
    try:
        plan = Plan(
            target="trace",
            device="cpu",
            max_examples=flag,
            options=Options(max_examples=marker),
            settings=Settings(max_examples=ini),
        )
        assert examples(plan) == count
    finally:
        hypothesis.settings.load_profile(before)
