"""diagnosis/onnx_stages.py: the owner is who made the first wrong stage of the last right one."""

from __future__ import annotations

import pytest

from pytest_torchexport.diagnosis.onnx_stages import (
    CAPTURED,
    OPTIMIZED,
    REFERENCE,
    SHIPPED,
    TRANSLATED,
    owner_of,
)
from pytest_torchexport.results.diagnosis import Stage

ORDER = (CAPTURED, REFERENCE, TRANSLATED, OPTIMIZED, SHIPPED)
YES, NO, OPEN, UNTRIED = "yes", "no", "?", "-"
AGREES = {YES: True, NO: False, OPEN: None}


@pytest.mark.parametrize(
    ("results", "owner"),
    [
        ([UNTRIED, UNTRIED, UNTRIED, YES, NO], "runtime's optimizer"),
        ([YES, UNTRIED, YES, NO, NO], "exporter's optimizer"),
        ([YES, YES, NO, NO, NO], "runtime"),
        ([YES, NO, NO, NO, NO], "translation"),
        ([NO, UNTRIED, UNTRIED, NO, NO], "capture"),
        # onnx.reference has faults of its own: what comes after it is right.
        ([YES, NO, YES, NO, NO], "exporter's optimizer"),
        # What lies between cannot be told apart.
        ([YES, OPEN, NO, NO, NO], None),
        ([YES, OPEN, OPEN, NO, NO], None),
        ([OPEN, UNTRIED, UNTRIED, NO, NO], None),
        ([OPEN, OPEN, OPEN, YES, NO], "runtime's optimizer"),
    ],
)
def test_the_owner_lies_between_the_last_right_stage_and_the_next(results, owner):
    stages = [
        Stage(name=name, agrees=AGREES[result])
        for name, result in zip(ORDER, results, strict=True)
        if result != UNTRIED
    ]
    assert owner_of(stages) == owner
