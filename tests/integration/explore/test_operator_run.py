"""explore/operator_run.py: the operators of eager and of real artifacts, recorded alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport.explore.operator_run import OperatorRuns, Reach
from pytest_torchexport.inputs.spec import Call

X = torch.tensor([[0.3, -0.7, 1.9], [2.2, -1.1, 0.6]])


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))

    def forward(self, x):
        return self.layers(x).clamp_(max=5.0)


@pytest.mark.parametrize("made", ["eager", "trace", "script", "export"])
def test_eager_and_artifacts_are_recorded_alike(made):
    torch.manual_seed(0)
    module = Deep().eval()
    sides = {
        "eager": lambda: module,
        "trace": lambda: torch.jit.trace(module, (X,)),
        "script": lambda: torch.jit.script(module),
        "export": lambda: torch.export.export(module, (X,)).module(),
    }
    function = sides[made]()
    side = OperatorRuns(fresh=lambda: function, done=lambda: None, seed=0)
    found = side.run(Call((X,))).near
    wanted = 5.0 - module.layers(X).max().item()
    key = next(key for key in found if key.side == "above" and found[key].bound == 5.0)
    assert found[key].missing == pytest.approx(wanted, abs=1e-5)
    gradient = side.probe(Call((X,)), Reach((key,), (0.0,))).demands[0].gradients[0]
    x = X.clone().requires_grad_()
    module.layers(x).max().backward()
    torch.testing.assert_close(-gradient, x.grad)


def test_a_trace_that_divides_sizes_has_no_thresholds_of_its_own():
    def halves(x):
        return x.reshape(x.shape[0] * x.shape[1] // 3, 3) * 2

    traced = torch.jit.trace(halves, (X,))
    found = [
        OperatorRuns(fresh=lambda side=side: side, done=lambda: None, seed=0).run(Call((X,))).near
        for side in (traced, halves)
    ]
    assert found[0] == found[1]
