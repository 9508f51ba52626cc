"""Known failures survive a few merges and each kind of refactoring: benchmarks/known_merges.py takes 1,000."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("known_merges")


def test_merges_lose_nothing_and_conflict_only_over_one_test(benchmark):
    found = benchmark.merges(15, seed=1)
    assert found[benchmark.EXACT] > 10
    assert set(found) <= {benchmark.EXACT, "conflict, both touch one test"}


def test_every_kind_of_refactoring_keeps_what_is_known(benchmark):
    assert set(benchmark.refactor(11, seed=1)) == {"found"}
