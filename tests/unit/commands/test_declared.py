"""commands/declared.py: an input in one argument."""

from __future__ import annotations

import pytest
import torch

from pytest_torchexport.commands.declared import parse_input
from pytest_torchexport.commands.shell import CommandError


@pytest.mark.parametrize(
    ("text", "dtype", "shape", "marker", "low", "high", "source"),
    [
        ("float32[2,3]", torch.float32, (2, 3), "", None, None, "torch.randn((2, 3))"),
        ("float32[]", torch.float32, (), "", None, None, "torch.randn(())"),
        ("float16[ batch=2, 3 ]", torch.float16, (2, 3), "batch 3", None, None, "torch.randn((2, 3), dtype=torch.float16)"),
        ("float32[4]{2..3}", torch.float32, (4,), "", 2, 3, "torch.empty((4,)).uniform_(2.0, 3.0)"),
        ("int64[200]{-1..1}", torch.int64, (200,), "", -1, 1, "torch.randint(-1, 2, (200,), dtype=torch.int64)"),
        ("uint8[n=9]{255..255}", torch.uint8, (9,), "n", 255, 255, "torch.randint(255, 256, (9,), dtype=torch.uint8)"),
        ("bool[64]", torch.bool, (64,), "", 0, 1, "torch.randint(0, 2, (64,)).bool()"),
        ("complex64[2]", torch.complex64, (2,), "", None, None, "torch.randn((2,), dtype=torch.complex64)"),
    ],
)  # fmt: skip
def test_a_tensor_is_drawn_as_declared_and_its_source_makes_such_a_one(
    text, dtype, shape, marker, low, high, source
):
    found = parse_input(text)
    assert (found.name, found.value.shape, found.source) == ("", marker, source)
    for made in (found.made(torch.Generator().manual_seed(0)), eval(source)):
        assert (made.dtype, tuple(made.shape)) == (dtype, shape)
        if low is not None:
            assert low <= made.min() <= made.max() <= high
    named = parse_input(f"x={text}")
    assert (named.name, named.value, named.source) == ("x", found.value, f"x={source}")


def test_both_ends_of_integers_are_drawn():
    made = parse_input("int64[200]{-1..1}").made(torch.Generator().manual_seed(0))
    assert set(made.tolist()) == {-1, 0, 1}


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [("0.5", "", 0.5), ("scale=2", "scale", 2), ("f=True", "f", True), ("m='a=b'", "m", "a=b"), ("[1, 2]", "", [1, 2]), ("d={'a': 1}", "d", {"a": 1}), ("x=None", "x", None)],
)  # fmt: skip
def test_a_python_value_is_itself(text, name, value):
    found = parse_input(text)
    assert (found.name, found.made(torch.Generator())) == (name, value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", r"is no input; legal: float32\[2,3,32,32\]"),
        ("hello", "is no input"),
        ("x==1", "is no input"),
        ("float32", "is no input"),
        ("float32[2", "is no input"),
        ("float32[99999999999,4]", "more than 1000000000 numbers"),
        ("float31[2]", "'float31' is not a dtype; legal: float32, .* Did you mean 'float32'"),
        ("float32[2,]", "is no shape"),
        ("float32[-1]", "is no shape"),
        ("float32[2x3]", "is no shape"),
        ("float32[a b=2]", "is no shape"),
        ("int64[2]", r"say which integers are legal, for example int64\[2\]\{0..99\}"),
        ("int64[2]{0..1.5}", "is no range of int64"),
        ("float32[2]{3..1}", "is no range"),
        ("float32[2]{nan..1}", "is no range"),
        ("float32[2]{1}", "is no range"),
        ("bool[2]{0..1}", "is no range of bool"),
    ],
)
def test_what_is_no_input_is_told_with_what_is_legal(text, why):
    with pytest.raises(CommandError, match=why):
        parse_input(text)
