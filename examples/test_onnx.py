"""Export to ONNX from a plain module, and from TorchScript with the legacy exporter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

# torch.jit is deprecated, and this suite turns warnings into errors.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit")


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.linear(x), dim=-1)


# `onnx` is torch.onnx.export with its default exporter, `onnx_legacy` is dynamo=False. ONNX Runtime
# runs the artifacts. `export_options` are passed to the exporter.
@pytest.mark.torchexport("onnx", "onnx_legacy", export_options={"onnx": {"opset_version": 20}})
def test_plain_module():
    assert Scores()(torch.randn(2, 6)).shape == (2, 4)


class Refine(nn.Module):
    """Makes one step per row of the input, with a branch on data in each."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x[0])
        for i in range(x.size(0)):
            step = self.linear(x[i])
            if step.sum() > 0:
                state = state + step
            else:
                state = state - step
        return state


# A ScriptModule keeps its loop and its branches, as Loop and If in the graph. Only the legacy
# exporter takes a ScriptModule. On `onnx` and `export` the item is skipped as not applicable.
@pytest.mark.torchexport(
    "onnx_legacy", "script", shapes={"x": "time batch 4"}, dims={"time": (1, 6), "batch": (1, 4)}
)
def test_script_module(torchexport):
    torchexport.check(torch.jit.script(Refine()), torch.randn(3, 2, 4))


@pytest.mark.torchexport("onnx_legacy")
def test_loops_stay_loops(torchexport):
    artifact = torchexport.export(torch.jit.script(Refine()), torch.randn(3, 2, 4))
    for steps in (1, 5):
        x = torch.randn(steps, 2, 4)
        torch.testing.assert_close(artifact(x), artifact.program(x))


# A trace of a plain module freezes the loop. A trace around a scripted part keeps it.
@pytest.mark.torchexport("onnx_legacy")
def test_traced_module_around_a_scripted_one(torchexport):
    model = nn.Sequential(nn.Linear(4, 4), torch.jit.script(Refine()))
    example = torch.randn(3, 2, 4)
    traced = torch.jit.trace(model.eval(), example, check_trace=False)
    torchexport.using(shapes={"input": "time 2 4"}, dims={"time": (1, 6)}).check(traced, example)
