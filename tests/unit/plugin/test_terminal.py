"""plugin/terminal.py: why an item is a skip."""

from __future__ import annotations

import pytest
from sample import verdict

from pytest_torchexport.plugin.terminal import why_skipped


@pytest.mark.parametrize(
    ("statuses", "reason"),
    [
        ({"trace": ["passed", "passed"]}, ""),
        ({"trace": ["skipped"]}, "of trace"),
        ({"trace": ["passed", "skipped"]}, "1 of 2 not judged: Net: of trace"),
        ({"trace": ["passed"], "onnx": ["skipped"]}, ""),
        ({"trace": ["passed", "skipped"], "onnx": ["skipped"]}, "2 of 3 not judged: Net: of trace"),
        ({}, ""),
    ],
)
def test_an_item_is_skipped_if_no_target_judged_all_its_subjects(statuses, reason):
    verdicts = [
        verdict(target, status, reason=f"of {target}")
        for target, each in statuses.items()
        for status in each
    ]
    assert why_skipped(verdicts) == reason
