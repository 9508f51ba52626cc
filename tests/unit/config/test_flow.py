"""config/flow.py: the order of an item's steps, and what each row names."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest

from pytest_torchexport.config.flow import FLOW


def function_of(step):
    module, _, name = step.run.partition(":")
    return getattr(importlib.import_module(f"pytest_torchexport.checks.{module}"), name)


@pytest.mark.parametrize("step", FLOW, ids=lambda step: step.name)
def test_a_step_is_a_documented_function_of_a_case(step):
    function = function_of(step)
    assert list(inspect.signature(function).parameters) == ["case"]
    assert re.fullmatch(r"(Case|Case \| None|None)", function.__annotations__["return"])
    assert function.__doc__
