"""judge/convention.py: the ways of calling that eager has and a program does not."""

# the parameters are what a signature is read of

from __future__ import annotations

import inspect

import pytest

from pytest_torchexport.inputs.call import Call
from pytest_torchexport.judge.convention import refused, reordered, unlike


def forward(x, y=None, *, scale=2.0):
    """Return nothing: the forward of eager."""


def by_position(x, /):
    """Return nothing: a program."""


def by_name(*, x, y, scale):
    """Return nothing: a program."""


def as_it_is(x, y=None, *, scale=2.0):
    """Return nothing: a program."""


def renamed(x, argument_2):
    """Return nothing: a program."""


def anything(*args, **kwargs):
    """Return nothing: a forward without names."""


GONE = "the program does not take y, scale: constant since the export"


@pytest.mark.parametrize(
    ("eager", "program", "sentences"),
    [
        (forward, as_it_is, []),
        (
            forward,
            by_position,
            ["the program takes x by position only, forward also by name", GONE],
        ),
        (
            forward,
            by_name,
            [
                "the program takes x, y by name only, forward also by position",
                "the program needs y, scale, for which forward has a default",
            ],
        ),
        (
            forward,
            renamed,
            ["the program's arguments are x, argument_2; forward's are x, y, scale"],
        ),
        (by_position, by_position, []),
        (by_position, lambda: None, ["the program does not take x: constant since the export"]),
        (anything, renamed, []),
    ],
)
def test_each_way_that_only_eager_can_be_called_in_is_a_sentence(eager, program, sentences):
    assert list(unlike(inspect.signature(eager), inspect.signature(program))) == sentences


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (("x", "y"), False),
        (("y", "x"), True),
        (("y",), False),
        (("batch_a", "x", "y"), False),
        (("y", "batch_a", "x"), True),
        ((), False),
        (("input_1", "input_0"), False),
    ],
)
def test_inputs_in_another_order_than_forwards_are_said(inputs, said):
    text = reordered(inspect.signature(forward), inputs)
    assert bool(text) == said
    if said:
        assert "in the order y, x, as the call named them, and not in forward's (x, y)" in text


@pytest.mark.parametrize(
    ("program", "call", "given"),
    [
        (by_position, Call((1, 2), {}), "it takes (x, /), and eager is called with (x, y)"),
        (
            renamed,
            Call((1,), {"y": 2}),
            "it takes (x, argument_2), and eager is called with (x, y=)",
        ),
        (by_name, Call((1,), {"scale": 2}), "called with (x, scale=)"),
        (as_it_is, Call((1, 2), {"scale": 3}), ""),
        (renamed, Call((1, 2), {}), ""),
        (anything, Call((1,), {"scale": 3}), ""),
    ],
)
def test_a_call_that_a_program_does_not_take(program, call, given):
    text = refused(inspect.signature(forward), inspect.signature(program), call)
    assert given in text
    assert bool(given) == bool(text)


def test_arguments_without_names_are_counted():
    text = refused(None, inspect.signature(by_position), Call((1, 2), {}))
    assert text.endswith("called with (argument 1, argument 2)")
