"""diagnosis/stages.py: the owner, if what torch captured already differs from eager."""

from __future__ import annotations

import pytest

from pytest_torchexport.diagnosis.stages import captured_by
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Structural

NO_CAUSE = Diagnosis()
SEEDED = Diagnosis(causes=(Cause(kind="own seed", text="it seeds torch"),))


def differing(kind):
    return Diagnosis(structural=Structural(kind=kind, operator="aten.mul"))


@pytest.mark.parametrize(
    ("target", "known", "owner"),
    [
        ("trace", NO_CAUSE, None),
        ("trace", differing("other"), None),
        ("trace", differing("constant"), None),
        ("trace", differing("same"), "capture"),
        ("trace", SEEDED, "capture"),
        ("script", NO_CAUSE, "capture"),
    ],
)
def test_the_capture_is_blamed_only_if_something_tells(target, known, owner):
    assert captured_by(target, known) == owner
