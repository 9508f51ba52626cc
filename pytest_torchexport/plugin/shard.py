"""One of several equal parts of the tests, for a job of its own.

This is no part of ``items.py``: it divides all tests of a run, marked or not, after every other
selection.
"""

from __future__ import annotations

import pytest

from pytest_torchexport.plugin.items import FIXTURE, Variant
from pytest_torchexport.results.entries import without_variant


def select(config: pytest.Config, items: list[pytest.Item], part: int, parts: int) -> None:
    """Keep the items of every ``parts``-th test, from the one of number ``part``, counted from 1.

    The tests are sorted by name, so that their order in this run does not count. The items of a
    test, one per target and device, stay together.
    """
    tests = sorted({_test(item) for item in items})
    kept = set(tests[part - 1 :: parts])
    left_out = [item for item in items if _test(item) not in kept]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _test(item) in kept]


def _test(item: pytest.Item) -> str:
    """Return the node id without target and device."""
    callspec = getattr(item, "callspec", None)
    variant = callspec.params.get(FIXTURE) if callspec is not None else None
    return without_variant(item.nodeid, variant.id) if isinstance(variant, Variant) else item.nodeid
