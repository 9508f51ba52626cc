from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport import check_export, raise_for_failure

torch.manual_seed(0)
verdict = check_export(
    nn.Linear(4, 2), (torch.randn(3, 4),), target="trace", dims={"batch": (1, 16)}
)
print(verdict.status, verdict.calls["drawn"], verdict.reached["batch"][-1])
raise_for_failure(verdict)
