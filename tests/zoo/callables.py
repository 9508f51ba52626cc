"""Subjects that are not plain modules: functions, bound methods, ScriptModules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.control import SumBranch
from zoo.row import FROZEN, REFUSED, SKIPPED, Blame, call, normal, row, truth, undecided


class Encoder(nn.Module):
    """Has methods to export beside forward."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)

    @torch.jit.export
    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(self.down(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.up(z)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.encode(x))


def standardize(x: Tensor) -> Tensor:
    return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1)


def clip_if_large(x: Tensor) -> Tensor:
    if bool(x.abs().max() > 1):
        return x.clamp(-1.0, 1.0)
    return x * 1.5


CALLABLES = (
    row("function", lambda: standardize, call(normal(4, 3)), round_trip=True),
    row(
        "function with a branch",
        lambda: clip_if_large,
        call(normal(4, 3)),
        truth(trace=FROZEN, export=REFUSED, onnx=REFUSED, onnx_legacy=FROZEN),
        ci="trace export onnx onnx_legacy",
        blame=Blame(owner="model", cause="frozen branch", line="if bool(x.abs().max() > 1):"),
        refused={"export onnx": undecided("if bool(x.abs().max() > 1):")},
    ),
    row(
        "bound method",
        lambda: Encoder().eval().encode,
        call(normal(3, 4)),
        ci="export onnx",
        round_trip=True,
    ),
    row(
        "bound method, not decorated",
        lambda: Encoder().eval().decode,
        call(normal(3, 2)),
        ci="script",
        round_trip=True,
    ),
    # A ScriptModule keeps its branches under trace and in the legacy exporter.
    row(
        "script module",
        lambda: torch.jit.script(SumBranch()),
        call(normal(4, 3)),
        truth(export=SKIPPED, onnx=SKIPPED),
        ci="export onnx onnx_legacy",
        round_trip=True,
    ),
)
