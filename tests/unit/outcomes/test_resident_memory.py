"""outcomes/resident_memory.py: what a callable keeps for each new size, and what it gives back."""

from __future__ import annotations

import statistics

import pytest
import torch

from pytest_torchexport.outcomes.fork import FORKS, Death
from pytest_torchexport.outcomes.resident_memory import EACH, GROUPS, growth

MIB = 2**20
SIZES = list(range(GROUPS * EACH + 1, 0, -1))

pytestmark = pytest.mark.skipif(not FORKS, reason="needs a fork")


def test_what_is_kept_for_each_new_size_is_measured():
    kept = {}

    def keeping(size):
        kept.setdefault(size, torch.ones(MIB // 4))

    found = growth(keeping, SIZES, 60.0)
    assert len(found) == GROUPS
    assert statistics.median(found) == pytest.approx(MIB, rel=0.1)
    assert kept == {}  # in the fork alone


def test_what_is_given_back_is_not():
    found = growth(lambda size: torch.ones(MIB // 4 * size).sum(), SIZES, 60.0)
    assert abs(statistics.median(found)) < MIB / 16


def test_a_call_that_raises_is_no_measurement():
    def raising(size):
        raise ValueError(f"not at {size}")

    assert growth(raising, SIZES, 60.0) == Death(raised=f"ValueError: not at {SIZES[0]}")
