"""Use the fixture: ``check``, ``export`` and ``using``."""

from __future__ import annotations

import pytest
import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(10, 4)

    def forward(self, x):
        return torch.tanh(self.linear(x))

    def energy(self, x):
        return self.linear(x).square().sum(dim=-1)


@pytest.mark.torchexport("trace", "export", "onnx")
def test_check(torchexport):
    # The arguments after the module are the example call. A failure raises; a pass returns a
    # Verdict.
    verdict = torchexport.check(Encoder(), torch.randn(2, 10))
    assert verdict.status == "passed"
    assert 1 in verdict.reached["batch"]  # batch size 1, which exporters often freeze, was run


@pytest.mark.torchexport("trace", "export")
def test_check_a_method_and_a_function(torchexport):
    torchexport.check(Encoder().energy, torch.randn(2, 10))
    torchexport.check(torch.nn.functional.gelu, torch.randn(2, 10))


@pytest.mark.torchexport("trace", "export", "onnx")
def test_export(torchexport):
    # Get the artifact for asserts of your own. Call it like the module, on the item's device.
    encoder, x = Encoder().eval(), torch.randn(2, 10)
    artifact = torchexport.export(encoder, x)
    torch.testing.assert_close(artifact(x.to(torchexport.device)).cpu(), encoder(x))


@pytest.mark.torchexport("onnx")
def test_the_graph_is_small(torchexport):
    # `program` is the format's own object; for onnx it is torch's ONNXProgram.
    artifact = torchexport.export(Encoder(), torch.randn(2, 10))
    operators = [node.op_type for node in artifact.program.model.graph]
    assert operators == ["Gemm", "Tanh"]


@pytest.mark.torchexport("trace", "export", "onnx", dims={"batch": (1, 16)})
def test_using(torchexport):
    # `using` returns the fixture with other options. The other options of the marker stay.
    torchexport.check(Encoder(), torch.randn(2, 10))
    bounded = torchexport.using(values={"x": (-1.0, 1.0)}, rtol=1e-4, atol=1e-6)
    bounded.check(Encoder(), torch.randn(2, 10))


@pytest.mark.parametrize("width", [4, 32])
def test_without_a_marker(torchexport, width):
    # Runs on the default targets. The test's own parameters come last: [onnx-cpu-32].
    model = nn.Sequential(nn.Linear(10, width), nn.ReLU())
    verdict = torchexport.check(model, torch.randn(3, 10))
    assert verdict.target == torchexport.target
    assert verdict.device == torchexport.device
