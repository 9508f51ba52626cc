"""Check branches, loops, writes and random numbers on each target.

Most of these functions come from the TorchScript documentation.
https://docs.pytorch.org/docs/stable/jit.html
If a target breaks a function, the example has a strict xfail of exactly that failure.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pytest_torchexport import (
    ArtifactRaised,
    BranchFrozen,
    DimsNarrowed,
    ExportRefused,
    StateDiffers,
)

ALL = ("trace", "script", "export", "onnx")

# A branch on data: a trace (and an ONNX file made from one) keeps the branch that its example took.
# The exporters `export` and `onnx` refuse the module. `script` compiles both branches.
FROZEN = {
    "trace": (BranchFrozen, "always the branch that the example took"),
    "export": (ExportRefused, "a branch on data"),
    "onnx": (ExportRefused, "a branch on data"),
}


class MyModule(nn.Module):
    """From the TorchScript documentation: two ways to use one weight."""

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(rows, columns))

    def forward(self, input: Tensor) -> Tensor:
        if input.sum() > 0:
            output = self.weight.mv(input)
        else:
            output = self.weight + input
        return output


# The two branches return different shapes.
@pytest.mark.torchexport(*ALL, xfail=FROZEN)
def test_branch_on_the_sum():
    assert MyModule(4, 3)(torch.ones(3)).shape == (4,)


def foo(length: int) -> Tensor:
    """A loop with an integer as bound, and a condition on the loop variable."""
    rv = torch.zeros(3, 4)
    for i in range(length):
        if i < 10:
            rv = rv - 1.0
        else:
            rv = rv + 1.0
    return rv


# A Python number keeps the example's value unless `values` declares others. Only `script` keeps the
# loop.
@pytest.mark.torchexport(
    *ALL,
    values={"length": (0, 20)},
    xfail={
        "trace": (BranchFrozen, "as many steps as the example had"),
        "export": (ArtifactRaised, "the same, but a guard of torch.export raises"),
        "onnx": (BranchFrozen, "as many steps as the example had"),
    },
)
def test_integer_loop_bound(torchexport):
    torchexport.check(foo, 12)


def loop_in_traced_fn(x: Tensor) -> Tensor:
    """A loop over the rows of a tensor."""
    result = x[0]
    for i in range(x.size(0)):
        result = result * x[i]
    return result


# torch.export reports that the number of rows became a constant; the ONNX exporter does not report
# it.
@pytest.mark.torchexport(
    *ALL,
    shapes={"x": "rows 4 5"},
    dims={"rows": (1, 6)},
    xfail={
        "trace": (BranchFrozen, "always three rows: with fewer, there is no third"),
        "export": (ExportRefused, "the number of rows became a constant"),
        "onnx": (DimsNarrowed, "the file always has three rows"),
    },
)
def test_loop_over_rows(torchexport):
    torchexport.check(loop_in_traced_fn, torch.rand(3, 4, 5))


def fill_row(x: Tensor) -> Tensor:
    """Writes random numbers into a row of its input."""
    x[0] = torch.rand(x.shape[1])
    return x


# A random function can be checked: the random generators get the same seed before each call. These
# three targets draw the same numbers as eager and write them to the same place.
@pytest.mark.torchexport("trace", "script", "export")
def test_random_values_in_a_row(torchexport):
    torchexport.check(fill_row, torch.rand(3, 4))


# ONNX Runtime has a random generator of its own, so its numbers cannot be compared. The onnx item
# is skipped with this reason.
class Jitter(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.rand_like(x)


@pytest.mark.torchexport(*ALL)
def test_random_numbers():
    x = torch.randn(3, 4)
    assert (Jitter()(x) - x).max() < 0.1


def zero_row(x: Tensor) -> Tensor:
    """Writes to its input."""
    x[0] = 0
    return x * 2


# An ONNX graph cannot write to its inputs: its output is correct, but the caller's tensor is
# unchanged.
@pytest.mark.torchexport(*ALL, xfail={"onnx": (StateDiffers, "ONNX graphs do not write to inputs")})
def test_write_into_a_row(torchexport):
    torchexport.check(zero_row, torch.rand(3, 4))


# A branch on data in a helper that torch.jit.trace compiles: the artifact keeps the `if`.
@torch.jit.script_if_tracing
def larger(x: Tensor, y: Tensor) -> Tensor:
    if x.max() > y.max():
        r = x
    else:
        r = y
    return r


class Larger(nn.Module):
    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return larger(x, y) + z


@pytest.mark.torchexport("trace", "script")
def test_scripted_helper_in_a_traced_module():
    assert Larger()(torch.rand(3), torch.rand(3), torch.rand(3)).shape == (3,)


# The same branch directly in forward is frozen.
class LargerInline(nn.Module):
    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        r = x if x.max() > y.max() else y
        return r + z


@pytest.mark.torchexport(*ALL, xfail=FROZEN)
def test_the_same_branch_without_the_helper():
    assert LargerInline()(torch.rand(3), torch.rand(3), torch.rand(3)).shape == (3,)
