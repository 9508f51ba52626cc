"""A call that uses up the item's time ends the item, whoever drew it."""

from __future__ import annotations

import pytest
import torch

from pytest_torchexport import check_export
from pytest_torchexport.checks import parity
from pytest_torchexport.judge.log import Activity
from pytest_torchexport.outcomes.limits import TimeLimitExceeded

TRIAL = parity._trial


@pytest.mark.parametrize("drawn", [1, 5])
def test_a_drawn_call_that_does_not_return_is_no_pass(monkeypatch, drawn):
    def trial(case, origin, recipe, repeats):
        if origin == "drawn" and case.log.calls["drawn"] >= drawn - 1:
            with case.log.during(Activity.ARTIFACT):
                raise TimeLimitExceeded
        return TRIAL(case, origin, recipe, repeats)

    monkeypatch.setattr(parity, "_trial", trial)
    verdict = check_export(
        torch.nn.Linear(3, 2), (torch.randn(2, 3),), target="script", checks=["parity"]
    )
    assert verdict.failure == "ArtifactHung", verdict
    assert verdict.calls["drawn"] == drawn - 1
