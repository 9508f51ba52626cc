"""Check the cell of the official TorchScript tutorial, traced, scripted, and mixed.

https://docs.pytorch.org/tutorials/beginner/Intro_to_TorchScript_tutorial.html
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pytest_torchexport import BranchFrozen, ExportRefused

# torch.jit is deprecated, and tracing warns that a trace may not generalize, which these tests
# check.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


class MyDecisionGate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class MyCell(nn.Module):
    def __init__(self, gate: nn.Module):
        super().__init__()
        self.gate = gate
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        new_h = torch.tanh(self.gate(self.linear(x)) + h)
        return new_h, new_h


def example() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4), torch.randn(3, 4)


# A trace keeps the branch of the `if` that its example took, and gives wrong numbers on the other
# branch. torch.export and the ONNX exporter refuse, because the condition depends on data. Only
# `script` keeps the `if`.
@pytest.mark.torchexport(
    "trace",
    "script",
    "export",
    "onnx",
    "onnx_legacy",
    xfail={
        "trace": (BranchFrozen, "the gate is frozen"),
        "export": (ExportRefused, "a branch on data"),
        "onnx": (ExportRefused, "a branch on data"),
        "onnx_legacy": (BranchFrozen, "made from a trace: the gate is frozen"),
    },
)
def test_cell():
    torch.manual_seed(0)  # with these weights, both outcomes of the gate are frequent
    h, _ = MyCell(MyDecisionGate())(*example())
    assert h.shape == (3, 4)


# A scripted gate in a traced cell: the trace calls the compiled gate, which keeps its `if`. The
# legacy ONNX exporter does not take a plain module around a scripted one (test_onnx.py shows a form
# that it takes).
@pytest.mark.torchexport(
    "trace",
    "script",
    "onnx_legacy",
    xfail={"onnx_legacy": (ExportRefused, "a scripted module inside a plain one")},
)
def test_scripted_gate_in_a_traced_cell(torchexport):
    cell = MyCell(torch.jit.script(MyDecisionGate()))
    torchexport.check(cell, *example())


class MyRNNLoop(nn.Module):
    """A loop over time around a traced cell; scripted, because the number of steps varies."""

    def __init__(self, cell: nn.Module):
        super().__init__()
        self.cell = cell

    def forward(self, xs: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.zeros(xs.size(1), 4, device=xs.device)
        y = torch.zeros(xs.size(1), 4, device=xs.device)
        for i in range(xs.size(0)):
            y, h = self.cell(xs[i], h)
        return y, h


class WrapRNN(nn.Module):
    """Returns the relu of the last step; traced around the scripted loop."""

    def __init__(self, loop: nn.Module):
        super().__init__()
        self.loop = loop

    def forward(self, xs: Tensor) -> Tensor:
        y, _ = self.loop(xs)
        return torch.relu(y)


SEQUENCES = {"shapes": {"xs": "time batch 4"}, "dims": {"time": (1, 8), "batch": (1, 4)}}


def traced_cell() -> torch.jit.ScriptModule:
    """Trace the cell around its scripted gate, as the tutorial does."""
    cell = MyCell(torch.jit.script(MyDecisionGate()))
    return torch.jit.trace(cell, example(), check_trace=False)


# A traced cell in a scripted loop: the loop is compiled, so all lengths work.
@pytest.mark.torchexport("script", **SEQUENCES)
def test_traced_cell_in_a_scripted_loop(torchexport):
    torchexport.check(MyRNNLoop(traced_cell()), torch.randn(5, 3, 4))


# A trace of the same loop always makes as many steps as its example. It raises on a shorter
# sequence, and ignores the end of a longer one without an error.
@pytest.mark.torchexport(
    "trace",
    shapes={"xs": "time batch 4"},
    dims={"time": (1, 5), "batch": (1, 4)},
    xfail={"trace": (BranchFrozen, "always 5 steps: a shorter sequence has no fifth")},
)
def test_traced_loop_on_shorter_sequences(torchexport):
    torchexport.check(MyRNNLoop(traced_cell()), torch.randn(5, 3, 4))


@pytest.mark.torchexport(
    "trace",
    shapes={"xs": "time batch 4"},
    dims={"time": (5, 9), "batch": (1, 4)},
    xfail={"trace": (BranchFrozen, "always 5 steps: the rest is not read")},
)
def test_traced_loop_on_longer_sequences(torchexport):
    torchexport.check(MyRNNLoop(traced_cell()), torch.randn(5, 3, 4))


# A traced wrapper around a scripted loop around a traced cell around a scripted gate.
@pytest.mark.torchexport("trace", "script", **SEQUENCES)
def test_scripted_loop_in_a_traced_wrapper(torchexport):
    loop = torch.jit.script(MyRNNLoop(traced_cell()))
    torchexport.check(WrapRNN(loop), torch.randn(5, 3, 4))


class TracedConvolutions(nn.Module):
    """A scripted module whose convolutions were traced, as in the tutorial."""

    def __init__(self):
        super().__init__()
        image = torch.randn(1, 1, 16, 16)
        self.conv1 = torch.jit.trace(nn.Conv2d(1, 4, 5), image, check_trace=False)
        features = torch.randn(1, 4, 12, 12)
        self.conv2 = torch.jit.trace(nn.Conv2d(4, 4, 5), features, check_trace=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        return torch.relu(self.conv2(x))


@pytest.mark.torchexport(
    "script",
    "trace",
    shapes={"x": "batch 1 height width"},
    dims={"batch": (1, 4), "height": (9, 24), "width": (9, 24)},
)
def test_scripted_module_with_traced_convolutions(torchexport):
    torchexport.check(TracedConvolutions(), torch.randn(2, 1, 16, 16))
