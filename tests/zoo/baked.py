"""Python numbers read from a tensor during capture, and branches on the kind of capture."""

from __future__ import annotations

from typing import Tuple  # noqa: UP035  # TorchScript takes no other spelling

import torch
from torch import Tensor, nn

from zoo.row import (
    DIFFERS,
    REFUSED,
    UNEXPLAINED,
    Blame,
    asks,
    baked,
    call,
    no_construct,
    normal,
    row,
    truth,
    unannotated,
    undecided,
)


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


class OnnxSoftplus(nn.Module):
    """Spells softplus otherwise for ONNX; the plain spelling overflows."""

    def __init__(self, *, stable: bool) -> None:
        super().__init__()
        self.stable = stable

    def forward(self, x: Tensor) -> Tensor:
        x = x * 4
        if not torch.onnx.is_in_onnx_export():
            return nn.functional.softplus(x)
        if self.stable:
            return x.clamp(min=0) + (-x.abs()).exp().log1p()
        return (1 + x.exp()).log()


class ScriptsOwnBranch(nn.Module):
    """Only the script has the inner branch, and no operator compares its numbers."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting() and float(x.abs().max()) > 30.0:
            return x * self.factor
        return x * 2


class Forces(nn.Module):
    """A potential with its forces, which need gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.energy = nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        x = x.detach().requires_grad_(True)
        energy = self.energy(self.hidden(x).tanh()).sum()
        forces = torch.autograd.grad([energy], [x])[0]
        assert forces is not None
        return energy, -forces


class AsksForMode(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return x * 2
        return x * 3


class AsksInACorner(nn.Module):
    """Computes something else without gradients, on sums that few calls reach."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 100) and not torch.is_grad_enabled():
            return x * self.factor
        return x * 2


class AsksInACond(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def large(self, x: Tensor) -> Tensor:
        return x * 3 if torch.is_grad_enabled() else x * self.factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 100, self.large, lambda x: x * 2, (x,))


class AsksForInferenceMode(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 100) and torch.is_inference_mode_enabled():
            return x * self.factor
        return x * 2


class AsksForThreads(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 100) and torch.get_num_threads() > 4:
            return x * self.factor
        return x * 2


class ChunkPerThread(nn.Module):
    """Works on as many chunks as there are threads, and on each number alone."""

    def forward(self, x: Tensor) -> Tensor:
        chunks = x.chunk(torch.get_num_threads(), 1)
        return torch.cat([chunk.exp() for chunk in chunks], 1)


IN_A_CORNER = "x.sum() > 100"


def no_operator(line: str) -> Blame:
    """Return the blame of a function of torch's that TorchScript does not have."""
    return Blame(owner="capture", cause="unsupported operator", line=line)


BAKED = (
    # torch.onnx.export falls back to strict capture, which accepts float(tensor) and numpy.
    row(
        "float of max",
        FloatOfMax,
        call(normal(4, 3)),
        truth(trace=DIFFERS, export=REFUSED, onnx_legacy=DIFFERS),
        ci="onnx_legacy",
        blame=baked("float(x.max())"),
        refused={"export": undecided("x - float(x.max())")},
    ),
    row(
        "item scale",
        ItemScale,
        call(normal(4, 3)),
        truth(trace=DIFFERS, onnx_legacy=DIFFERS),
        ci="",
        blame=baked("x.abs().sum().item()"),
    ),
    row(
        "to list",
        ToList,
        call(normal(4, 3)),
        truth(trace=DIFFERS, script=REFUSED, onnx_legacy=DIFFERS),
        ci="",
        blame=baked("x[0].tolist()"),
        refused={"script": unannotated("x * sum(x[0].tolist())")},
    ),
    row(
        "through numpy",
        ThroughNumpy,
        call(normal(4, 3)),
        truth(trace=DIFFERS, script=REFUSED, export=REFUSED, onnx_legacy=DIFFERS),
        shapes={"x": "..."},
        ci="onnx",
        round_trip=True,
        blame=baked("x.numpy().cumsum(1)"),
        refused={"script export": no_construct("x + torch.from_numpy(x.numpy().cumsum(1))")},
    ),
    row(
        "new tensor of input",
        NewTensorOfInput,
        call(normal(4, 3)),
        truth(trace=DIFFERS, export=REFUSED, onnx_legacy=DIFFERS),
        blame=baked("torch.tensor([float(x[0, 0])"),
        refused={"export": undecided("x * torch.tensor([float(x[0, 0]), 1.0, 2.0])")},
    ),
    row(
        "index by value",
        IndexByValue,
        call(normal(4, 3), torch.tensor(1)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=REFUSED),
        values={"index": (0, 2)},
        ci="trace export onnx",
        blame=baked("int(index)"),
        refused={"export onnx": undecided("x[:, int(index)]")},
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
        blame=asks("if torch.jit.is_tracing():"),
    ),
    row(
        "scripting branch",
        ScriptingBranch,
        call(normal(4, 3)),
        truth(script=DIFFERS),
        ci="script onnx_legacy",
        round_trip=True,
        blame=asks("if torch.jit.is_scripting():"),
    ),
    row(
        "compiling branch",
        CompilingBranch,
        call(normal(4, 3)),
        truth(export=DIFFERS, onnx=DIFFERS),
        ci="export onnx_legacy",
        blame=asks("if torch.compiler.is_compiling():"),
    ),
    row(
        "onnx branch",
        OnnxBranch,
        call(normal(4, 3)),
        truth(script=REFUSED, onnx=DIFFERS, onnx_legacy=DIFFERS),
        ci="script onnx",
        blame=asks("if torch.onnx.is_in_onnx_export():"),
        refused={"script": no_construct("if torch.onnx.is_in_onnx_export():")},
    ),
    row(
        "softplus of onnx, overflows",
        lambda: OnnxSoftplus(stable=False),
        call(normal(4, 3)),
        truth(script=REFUSED, onnx=DIFFERS, onnx_legacy=DIFFERS),
        ci="onnx_legacy",
        blame=asks("if not torch.onnx.is_in_onnx_export():"),
        refused={"script": no_construct("if not torch.onnx.is_in_onnx_export():")},
    ),
    row(
        "softplus of onnx, stable",
        lambda: OnnxSoftplus(stable=True),
        call(normal(4, 3)),
        truth(script=REFUSED),
        ci="",
        refused={"script": no_construct("if not torch.onnx.is_in_onnx_export():")},
    ),
    row(
        "own branch of the script",
        lambda: ScriptsOwnBranch(3.0),
        call(normal(4, 3)),
        truth(script=DIFFERS),
        blame=asks("if torch.jit.is_scripting() and"),
        ci="script",
    ),
    row(
        "own branch of the script, the same",
        lambda: ScriptsOwnBranch(2.0),
        call(normal(4, 3)),
        ci="script",
    ),
    # The script asks again each time it runs, which is without gradients.
    row(
        "asks for the grad mode",
        AsksForMode,
        call(normal(4, 3)),
        truth(script=DIFFERS),
        otherwise="if torch.is_grad_enabled():",
        blame=Blame(owner="", cause="mode-dependent operator", line="if torch.is_grad_enabled():"),
        ci="script export",
    ),
    # The truth of a warning, which is no failure: the artifact does what the test's call does.
    row(
        "asks for the grad mode in a corner",
        lambda: AsksInACorner(3.0),
        call(normal(4, 3)),
        truth(script=DIFFERS, export=REFUSED, onnx=REFUSED),
        otherwise="and not torch.is_grad_enabled():",
        blame=Blame(
            owner="", cause="mode-dependent operator", line="and not torch.is_grad_enabled():"
        ),
        refused={"export onnx": undecided(IN_A_CORNER)},
    ),
    row(
        "asks for the grad mode in a corner, the same",
        lambda: AsksInACorner(2.0),
        call(normal(4, 3)),
        truth(export=REFUSED, onnx=REFUSED),
        refused={"export onnx": undecided(IN_A_CORNER)},
    ),
    row(
        "asks for the grad mode in a cond",
        lambda: AsksInACond(4.0),
        call(normal(4, 3)),
        truth(REFUSED, export=None, onnx=None),
        otherwise="return x * 3 if torch.is_grad_enabled() else x * self.factor",
        refused={"trace script onnx_legacy": no_construct("torch.cond(x.sum() > 100")},
        ci="export",
    ),
    row(
        "asks for the grad mode in a cond, the same",
        lambda: AsksInACond(3.0),
        call(normal(4, 3)),
        truth(REFUSED, export=None, onnx=None),
        refused={"trace script onnx_legacy": no_construct("torch.cond(x.sum() > 100")},
        ci="",
    ),
    row(
        "asks for inference mode",
        lambda: AsksForInferenceMode(3.0),
        call(normal(4, 3)),
        truth(script=REFUSED, export=REFUSED, onnx=REFUSED),
        otherwise="and torch.is_inference_mode_enabled():",
        under=torch.no_grad,
        refused={
            "script": no_operator("torch.is_inference_mode_enabled()"),
            "export onnx": undecided(IN_A_CORNER),
        },
    ),
    row(
        "asks for inference mode, the same",
        lambda: AsksForInferenceMode(2.0),
        call(normal(4, 3)),
        truth(script=REFUSED, export=REFUSED, onnx=REFUSED),
        under=torch.no_grad,
        refused={
            "script": no_operator("torch.is_inference_mode_enabled()"),
            "export onnx": undecided(IN_A_CORNER),
        },
        ci="",
    ),
    row(
        "asks for the number of threads",
        lambda: AsksForThreads(3.0),
        call(normal(4, 3)),
        truth(script=REFUSED, export=REFUSED, onnx=REFUSED),
        otherwise="and torch.get_num_threads() > 4:",
        refused={
            "script": no_operator("torch.get_num_threads()"),
            "export onnx": undecided(IN_A_CORNER),
        },
    ),
    row(
        "asks for the number of threads, the same",
        lambda: AsksForThreads(2.0),
        call(normal(4, 3)),
        truth(script=REFUSED, export=REFUSED, onnx=REFUSED),
        refused={
            "script": no_operator("torch.get_num_threads()"),
            "export onnx": undecided(IN_A_CORNER),
        },
        ci="",
    ),
    row(
        "a chunk per thread",
        ChunkPerThread,
        call(normal(4, 3)),
        truth(script=REFUSED),
        ci="",
        refused={"script": no_operator("torch.get_num_threads()")},
    ),
    row(
        "forces",
        Forces,
        call(normal(4, 3)),
        truth(REFUSED, script=None),
        ci="trace script onnx_legacy",
        round_trip=True,
        refused={
            "trace onnx_legacy": no_construct("forces = torch.autograd.grad([energy], [x])[0]"),
            "export onnx": UNEXPLAINED,
        },
    ),
    row(
        "asks for the grad mode without gradients",
        AsksForMode,
        call(normal(4, 3)),
        under=torch.no_grad,
        ci="script",
    ),
    row(
        "friendly tracing branch",
        FriendlyTracingBranch,
        call(normal(4, 3)),
        ci="export",
        round_trip=True,
    ),
)
