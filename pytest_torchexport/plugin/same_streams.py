"""Start the items of a test from one state of the random streams.

Its body makes the same weights for each target then, if it makes them with random numbers. pytest
loads this file at every start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_torchexport.plugin.items import name_of_test, variant_of

if TYPE_CHECKING:
    from pytest_torchexport.outcomes.torch_state import RandomStreams

# The tests that are remembered: others may run between the items of one.
MOST_TESTS = 64


class StreamsOfTests:
    """The random streams as the first item of each of the last tests found them."""

    def __init__(self) -> None:
        # With the items of the test that have started from them.
        self._kept: dict[str, tuple[RandomStreams, frozenset[str]]] = {}

    def start(self, item: pytest.Item) -> None:
        """Put the streams back to where the test's first item found them, or keep them for it."""
        if variant_of(item) is None:
            return
        from pytest_torchexport.outcomes.torch_state import RandomStreams

        test = name_of_test(item)
        streams, started = self._kept.pop(test, (None, frozenset()))
        if streams is None or item.nodeid in started:  # an item that is run again draws others
            streams, started = RandomStreams(), frozenset()
        streams.put_back()
        self._kept[test] = streams, started | {item.nodeid}
        if len(self._kept) > MOST_TESTS:
            del self._kept[next(iter(self._kept))]
