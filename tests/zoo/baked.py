"""Python numbers read from a tensor during capture, and branches on the kind of capture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.row import DIFFERS, REFUSED, call, normal, row, truth


class FloatOfMax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - float(x.max())


class ItemScale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.abs().sum().item()


class ToList(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * sum(x[0].tolist())


class ThroughNumpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_numpy(x.numpy().cumsum(1))


class NewTensorOfInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([float(x[0, 0]), 1.0, 2.0])


class IndexByValue(nn.Module):
    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return x[:, int(index)]


class SelectByTensor(nn.Module):
    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return x.index_select(1, index.reshape(1)).squeeze(1)


class TracingBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            return x * 2
        return x


class ScriptingBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return x * 2
        return x


class CompilingBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return x * 2
        return x


class OnnxBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return x * 2
        return x


class FriendlyTracingBranch(nn.Module):
    """Computes the same numbers in another way while it is traced."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            return x + x
        return x * 2


BAKED = (
    # torch.onnx.export falls back to strict capture, which accepts float(tensor) and numpy.
    row(
        "float of max",
        FloatOfMax,
        call(normal(4, 3)),
        truth(trace=DIFFERS, export=REFUSED, onnx_legacy=DIFFERS),
        ci="onnx_legacy",
    ),
    row(
        "item scale",
        ItemScale,
        call(normal(4, 3)),
        truth(trace=DIFFERS, onnx_legacy=DIFFERS),
        ci="",
    ),
    row(
        "to list",
        ToList,
        call(normal(4, 3)),
        truth(trace=DIFFERS, script=REFUSED, onnx_legacy=DIFFERS),
        ci="",
    ),
    row(
        "through numpy",
        ThroughNumpy,
        call(normal(4, 3)),
        truth(trace=DIFFERS, script=REFUSED, export=REFUSED, onnx_legacy=DIFFERS),
        shapes={"x": "..."},
        ci="onnx",
        round_trip=True,
    ),
    row(
        "new tensor of input",
        NewTensorOfInput,
        call(normal(4, 3)),
        truth(trace=DIFFERS, export=REFUSED, onnx_legacy=DIFFERS),
    ),
    row(
        "index by value",
        IndexByValue,
        call(normal(4, 3), torch.tensor(1)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=REFUSED),
        values={"index": (0, 2)},
        ci="trace export onnx",
    ),
    row(
        "select by tensor",
        SelectByTensor,
        call(normal(4, 3), torch.tensor(1)),
        values={"index": (0, 2)},
        round_trip=True,
    ),
    row(
        "tracing branch",
        TracingBranch,
        call(normal(4, 3)),
        truth(trace=DIFFERS, onnx_legacy=DIFFERS),
        ci="script",
        round_trip=True,
    ),
    row(
        "scripting branch",
        ScriptingBranch,
        call(normal(4, 3)),
        truth(script=DIFFERS),
        ci="script onnx_legacy",
        round_trip=True,
    ),
    row(
        "compiling branch",
        CompilingBranch,
        call(normal(4, 3)),
        truth(export=DIFFERS, onnx=DIFFERS),
        ci="export onnx_legacy",
    ),
    row(
        "onnx branch",
        OnnxBranch,
        call(normal(4, 3)),
        truth(script=REFUSED, onnx=DIFFERS, onnx_legacy=DIFFERS),
        ci="script onnx",
    ),
    row(
        "friendly tracing branch",
        FriendlyTracingBranch,
        call(normal(4, 3)),
        ci="export",
        round_trip=True,
    ),
)
