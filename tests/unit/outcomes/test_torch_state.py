"""outcomes/torch_state.py: what a check may change, and that the user never notices."""

# ruff: noqa: NPY002  # the legacy global stream is what a user's forward draws from

from __future__ import annotations

import logging
import os
import random
import sys
import warnings

import numpy as np
import pytest
import torch
from untouched import facts_of

from pytest_torchexport.outcomes.torch_state import (
    MAX_OUTPUT,
    MAX_WARNINGS,
    CapturedOutput,
    GradMode,
    outside_autocast,
    outside_inference_mode,
    quiet,
    under_autocast,
)
from pytest_torchexport.torch_private.circumstances import set_default_device

# What torch 2.9 says when the tests read allow_tf32.
pytestmark = pytest.mark.filterwarnings("ignore:Please use the new API settings to control TF32")


def world():
    """Everything global that a check may touch."""
    return facts_of(None, ()) | {
        "tf32 matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32 cudnn": torch.backends.cudnn.allow_tf32,
        "denormals": sys.float_info.min / 2 > 0.0,
        "showwarning": warnings.showwarning,
        "streams": (sys.stdout, sys.stderr),
        "levels": [logging.getLogger(name).level for name in ("torch.onnx", "torch.export")],
    }


def rude():
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    torch.set_flush_denormal(True)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    warnings.simplefilter("error")
    logging.getLogger("torch.onnx").setLevel(logging.DEBUG)
    random.random()
    torch.rand(3)
    sys.path.insert(0, "somewhere")
    torch.set_default_device("meta")
    torch.use_deterministic_algorithms(True)
    os.chdir("/")


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored(fails):
    logging.getLogger("torch.onnx").setLevel(logging.WARNING)
    before = world()
    try:
        with quiet("cpu"), quiet("cpu"):
            rude()
            if fails:
                raise ValueError("in the block")
    except ValueError:
        assert fails
    assert world() == before


def test_under_a_default_device_of_the_user_calls_are_made_on_the_cpu():
    torch.set_default_device("meta")
    try:
        with quiet("cpu"):
            assert torch.ones(1).device.type == "cpu"
        assert torch.ones(1).device.type == "meta"
    finally:
        set_default_device(None)


def test_warnings_are_kept_once_each_and_never_too_many():
    with quiet("cpu") as heard:
        warnings.warn("first sentence. Second one.", UserWarning, stacklevel=1)
        for number in range(5 * MAX_WARNINGS):
            warnings.warn(f"number {number}", UserWarning, stacklevel=1)
            warnings.warn("the same", UserWarning, stacklevel=1)
    text = next(iter(heard.warnings))
    assert text.startswith("UserWarning: first sentence. Second one. (")
    assert "test_torch_state.py:" in text
    assert len(heard.warnings) == MAX_WARNINGS


def test_what_a_trace_warns_of_in_files_of_libraries_comes_last():
    heard = CapturedOutput()
    traced = type("TracerWarning", (Warning,), {})
    library = torch.__file__
    for number in range(5 * MAX_WARNINGS):
        heard.warned("a number", traced, library, number)
    heard.warned("ROIAlign is only supported in a later opset", UserWarning, library, 1)
    heard.warned("a size", traced, __file__, 2)
    first, second, *others = heard.warnings
    assert first.startswith("UserWarning: ROIAlign is only supported")
    assert second.startswith("TracerWarning: a size (")
    assert len(others) == MAX_WARNINGS - 2


def test_an_error_filter_of_the_user_does_no_harm_and_torchs_noise_is_no_news():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet("cpu") as heard:
            warnings.warn("would have raised", UserWarning, stacklevel=1)
            warnings.warn("`torch.jit.trace` is deprecated", DeprecationWarning, stacklevel=1)
    assert len(heard.warnings) == 1


def test_what_was_printed_reaches_stdout_afterwards_and_is_bounded(capsys):
    with quiet("cpu") as heard:
        for _ in range(3):
            print("hello")
        print("x" * 10 * MAX_OUTPUT)
    out = capsys.readouterr().out
    assert out.startswith("hello\nhello\nhello\n")
    assert len(out) <= MAX_OUTPUT
    assert heard.printed == 4


# -- the mode of a call ----------------------------------------------------------------------------

MODES = (torch.enable_grad, torch.no_grad, torch.inference_mode)


@pytest.mark.parametrize("around", MODES)
@pytest.mark.parametrize("mode", list(GradMode))
def test_a_mode_is_entered_from_any_other_and_left_again(around, mode):
    with around():
        before = GradMode.current()
        with mode.entered():
            assert GradMode.current() is mode
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
