"""outcomes/stuck.py: where most samples of a stack are."""

from __future__ import annotations

import sys

import pytest

from pytest_torchexport.outcomes.limits import Frame, Stuck, stack_of, stuck

PACKAGES = "/env/lib/python3.11/site-packages"
NET = Frame("/project/net.py", 7, "Net.forward")
MODEL = Frame(f"{PACKAGES}/timm/models/davit.py", 311, "window_reverse")
CALL = Frame(f"{PACKAGES}/torch/nn/modules/module.py", 1, "Module.__call__")
SIZES = Frame(f"{PACKAGES}/torch/utils/_sympy/functions.py", 276, "FloorDiv.eval")
SYMPY = Frame(f"{PACKAGES}/sympy/simplify/simplify.py", 638, "simplify")
OTHER = Frame(f"{PACKAGES}/torch/_ops.py", 5, "OpOverload.__call__")


def inner(outermost):
    return stack_of(sys._getframe(), outermost)


def test_a_stack_ends_where_it_is_told():
    frames = inner(sys._getframe())
    assert [frame.function for frame in frames] == ["inner"]
    assert frames[0].file == __file__
    assert len(inner(None)) > 2


def test_the_line_and_the_function_of_most_samples_are_named():
    found = stuck([(SYMPY, SIZES, MODEL, CALL, NET)] * 3 + [(OTHER, NET)])
    assert found.where.place == "timm/models/davit.py:311"
    assert found.function == "FloorDiv.eval in torch/utils/_sympy/functions.py"
    assert found.in_sympy


def test_a_function_that_calls_the_line_is_not_one_that_the_line_calls():
    found = stuck([(NET, CALL)] * 3)
    assert found.where.place.endswith("net.py:7")
    assert found.function == ""


@pytest.mark.parametrize(
    "stacks",
    [[], [()], [(SYMPY, SIZES, MODEL, CALL, NET), (OTHER, NET)], [(), (SYMPY, SIZES, NET)]],
)
def test_what_is_not_in_most_samples_is_not_named(stacks):
    assert stuck(stacks) == Stuck()
