"""One of several equal parts of the tests, for a job of its own.

This is no part of ``items.py``: it divides all tests of a run, marked or not, after every other
selection.
"""

from __future__ import annotations

import pytest

from pytest_torchexport.plugin.items import name_of_test


def select(config: pytest.Config, items: list[pytest.Item], part: int, parts: int) -> None:
    """Keep the items of every ``parts``-th test, from the one of number ``part``, counted from 1.

    The tests are sorted by name, so that their order in this run does not count. The items of a
    test, one per target and device, stay together.
    """
    tests = sorted({name_of_test(item) for item in items})
    kept = set(tests[part - 1 :: parts])
    left_out = [item for item in items if name_of_test(item) not in kept]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if name_of_test(item) in kept]
