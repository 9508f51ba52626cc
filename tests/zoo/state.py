"""State: buffers, attributes, and writes into the inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.row import DIFFERS, STATE, call, normal, row, truth


class BufferCounter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x * self.count


class BufferReplaced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        out = x + self.last
        self.last = self.last * 0.5 + x.mean(0)
        return out


class BufferRead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class PythonCounter(nn.Module):
    """Counts its calls and does nothing with the count."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2


class PythonCounterUsed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class WritesInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.add_(1)
        return x * 2


class WritesRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x[0] = 0
        return x.sum(1)


class WritesClone(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 0] = 0
        return y + x


STATEFUL = (
    # Tracing runs forward: what it saves has already counted once. ONNX graphs carry no state back.
    row(
        "buffer counter",
        BufferCounter,
        call(normal(4, 3)),
        truth(trace=DIFFERS, onnx=STATE, onnx_legacy=DIFFERS),
    ),
    row(
        "buffer replaced",
        BufferReplaced,
        call(normal(4, 3)),
        truth(trace=STATE, onnx=STATE, onnx_legacy=DIFFERS),
    ),
    row("buffer read", BufferRead, call(normal(4, 3))),
    row("python counter", PythonCounter, call(normal(4, 3))),
    row("python counter, used", PythonCounterUsed, call(normal(4, 3)), truth(STATE, script=None)),
    row("writes input", WritesInput, call(normal(4, 3)), truth(onnx=STATE, onnx_legacy=STATE)),
    row("writes row", WritesRow, call(normal(4, 3)), truth(onnx=STATE, onnx_legacy=STATE)),
    row("writes clone", WritesClone, call(normal(4, 3))),
    row(
        "batchnorm, train",
        lambda: nn.BatchNorm1d(3),
        call(normal(4, 3)),
        truth(trace=STATE, onnx=DIFFERS, onnx_legacy=DIFFERS),
        train=True,
        mode="train",
        shapes={"input": "batch 3"},
        dims={"batch": (2, 6)},
    ),
)
