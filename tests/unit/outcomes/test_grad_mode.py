"""outcomes/grad_mode.py: the mode of a call, entered from any other."""

from __future__ import annotations

import pytest
import torch

from pytest_torchexport.outcomes.grad_mode import (
    GradMode,
    outside_autocast,
    outside_inference_mode,
    under_autocast,
)

MODES = (torch.enable_grad, torch.no_grad, torch.inference_mode)


@pytest.mark.parametrize("around", MODES)
@pytest.mark.parametrize("mode", list(GradMode))
def test_a_mode_is_entered_from_any_other_and_left_again(around, mode):
    with around():
        before = GradMode.current()
        with mode.entered():
            assert GradMode.current() is mode
            assert (torch.ones(1, requires_grad=mode is GradMode.GRAD) * 2).requires_grad == (
                mode is GradMode.GRAD
            )
        assert GradMode.current() is before


@pytest.mark.parametrize("around", MODES)
def test_inference_mode_is_left_and_another_mode_stays(around):
    with around():
        before = GradMode.current()
        with outside_inference_mode():
            assert not torch.ones(1).is_inference()
            assert before is GradMode.INFERENCE or GradMode.current() is before
        assert GradMode.current() is before


def test_autocast_is_left_and_entered_again():
    assert under_autocast() == ()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert under_autocast() == ("cpu",)
        with outside_autocast():
            assert under_autocast() == ()
        assert torch.ones(1, 1).matmul(torch.ones(1, 1)).dtype == torch.bfloat16
