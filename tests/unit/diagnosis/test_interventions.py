"""diagnosis/interventions.py: the fewest parts that are enough."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_torchexport.diagnosis.interventions import smallest

PARTS = range(12)


@given(st.sets(st.sampled_from(PARTS), min_size=1))
def test_of_all_parts_the_needed_ones_are_left(needed):
    assert set(smallest(PARTS, needed.issubset)) == needed


@given(st.sets(st.sampled_from(PARTS)))
def test_without_enough_parts_there_are_none(parts):
    assert smallest(sorted(parts), lambda _: False) == ()
    assert smallest((), lambda _: True) == ()
