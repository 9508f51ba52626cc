"""torch_private/circumstances.py: traces, transforms, modes and torch._dynamo are noticed.

A test that fails here means that torch has changed: the docstring of the room says what to do.
"""

import importlib

import torch

from pytest_torchexport.torch_private.circumstances import (
    dynamo_is_loaded,
    innermost_function_mode,
    is_tracing,
    is_transforming,
)


def test_the_innermost_function_mode_is_known():
    assert innermost_function_mode() is None
    with torch.device("cpu") as device:
        assert innermost_function_mode() is not None
    assert device is not None


def test_tracing_is_known():
    seen = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(is_tracing())
        return x + 1

    torch.jit.trace(function, torch.ones(1), check_trace=False)
    assert seen == [True]
    assert not is_tracing()


def test_dynamo_is_known_to_be_loaded():
    importlib.import_module("torch._dynamo")
    assert dynamo_is_loaded()


def test_transforms_of_torch_func_are_known():
    seen = []
    torch.func.vmap(lambda x: seen.append(is_transforming()) or x)(torch.ones(2))
    assert seen == [True]
    assert not is_transforming()
