"""diagnosis/spelling.py: lines of source without what makes a number of a tensor."""

from __future__ import annotations

import pytest

from pytest_torchexport.diagnosis.spelling import with_a_write, with_sizes, with_tensors


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("return x.view(int(x.shape[0]), -1) * 2", "return x.view(x.shape[0], -1) * 2"),
        ("y = x * torch.ones(len(x), 1)  # rows", "y = x * torch.ones(x.shape[0], 1)"),
        ("n = int(self.x.size(0)) if a else b", "n = self.x.size(0) if a else b"),
        ("return y / math.sqrt(x.shape[1])", "return y / x.shape[1] ** 0.5"),
        ("for t in range(int(x.shape[1])):", "for t in range(x.shape[1]):"),
        # Python looks a key up by its number.
        ("return {13: 2.0}.get(int(x.shape[1]), 1.0)", ""),
        ("return self.layers[len(x)](x)", ""),
        # Nothing that could be spelled otherwise, or no line of its own.
        *((line, "") for line in ("return int(x.sum())", "return x", "int(x.shape[0]),", "")),
    ],
)
def test_sizes_stay_sizes(line, other):
    assert with_sizes(line) == other


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("return x - float(x.max())", "return x - x.max()"),
        ("y = x * x.abs().sum().item()", "y = x * x.abs().sum()"),
        # A tensor cannot stand there, or would be made a constant again.
        ("return x[:, index.item()]", ""),
        ("return self.experts[best.item()](x)", ""),
        ("return torch.tensor([float(x[0]), 1.0])", ""),
        ("if x.sum().item() > 3:", ""),
        ("return x * float('inf')", ""),
    ],
)
def test_tensors_stay_tensors(line, other):
    assert with_tensors(line) == other


def test_a_new_tensor_under_an_old_name_becomes_a_write():
    assert with_a_write("self.last = x.mean(0)") == "self.last.copy_(x.mean(0))"
    assert with_a_write("last = x.mean(0)") == ""
    assert with_a_write('self.register_buffer("last", x)') == ""
