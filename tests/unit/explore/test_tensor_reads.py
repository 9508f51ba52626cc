"""explore/tensor_reads.py: which expressions read a number from a tensor."""

from __future__ import annotations

import ast

import pytest

from pytest_torchexport.explore.tensor_reads import READERS, names_read, reads_tensor

SOURCE = """
def forward(self, x):
    most = x.abs().max()
    x = x.clamp(max=most)
    kind = x.dtype
    return x
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x > 3", True),
        ("x.item() > 3", True),
        ("most.item() == 3", True),
        ("x.dtype == torch.float16", False),
        ("torch.float16 == x.dtype", False),
        ("kind == torch.float16", False),
        ("x.max().dtype == torch.float16", False),
        ("x.device.type == 'cuda'", False),
        ("x.is_floating_point()", False),
        ("x.to(kind).sum() > torch.finfo(x.dtype).max", True),
        ("y.dtype == torch.float16", False),
        ("y > 3", False),
        ("len(x.shape) == 4", False),
        ("len(most.shape) == 4", False),
        ("len(x) == 4", True),
        ("most is None", False),
        ("most is not None", False),
        ("most is True", True),
    ],
)
def test_a_fact_is_no_number_of_a_tensor(text, expected):
    (function,) = ast.parse(SOURCE).body
    names = names_read(function, READERS)
    assert reads_tensor(ast.parse(text, mode="eval").body, names, READERS) is expected
