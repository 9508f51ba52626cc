"""Files of more than 2 GB, for which formats change: external data, 64-bit offsets.

They take minutes and some 12 GB of memory per target, so they run only with TORCHEXPORT_HUGE=1.
"""

from __future__ import annotations

import os

import pytest
import zoo

from pytest_torchexport import check_export

WANTED = bool(os.environ.get("TORCHEXPORT_HUGE"))


@pytest.mark.skipif(not WANTED, reason="set TORCHEXPORT_HUGE=1: minutes and 12 GB of memory each")
@pytest.mark.parametrize("target", zoo.TARGETS)
@pytest.mark.parametrize("row", zoo.rows("huge"), ids=lambda row: row.name.replace(" ", "-"))
def test_more_than_two_gigabytes_are_saved_moved_and_loaded(row: zoo.Row, target: str) -> None:
    args, kwargs = row.example()
    verdict = check_export(row.build(), args, kwargs, target=target, max_examples=2, **row.options)
    assert verdict.failure == row.expect[target], verdict.reason
