"""Targets that others would write, from the public names alone: the contract, and reports that say why."""

from __future__ import annotations

import pytest
import torch
from slow import slow
from small_models import Counter, cnn, of
from third_party import aoti, executorch, openvino
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.config import names
from pytest_torchexport.testing import TargetContract

TARGETS = {
    "their_openvino": openvino.OpenVino(),
    "their_aoti": aoti.Aoti(),
    "their_executorch": executorch.ExecuTorch(),
}
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
INTEGERS = torch.arange(-16, 16).reshape(4, 8)


def in_place(x):
    x.add_(1)
    return x * 2


@pytest.fixture(params=TARGETS)
def name(request, monkeypatch):
    monkeypatch.setitem(names._registered, request.param, TARGETS[request.param])
    if reason := TARGETS[request.param].unavailable("cpu"):
        pytest.skip(reason)
    return request.param


@slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of ExecuTorch's exporter
class TestTheContract(TargetContract):
    @pytest.fixture
    def target(self, name):
        return TARGETS[name]


def check(target, module, x, **options):
    return check_export(module.eval(), (x,), target=target, dims={"batch": (1, 8)}, **options)


@slow
@pytest.mark.parametrize(
    ("module", "x"),
    [
        (cnn(), IMAGE),
        (nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 4)), X),
        (of(lambda x: torch.cond(x.sum() > 0, torch.exp, torch.sin, (x,))), X),
        (of(lambda x: x // torch.tensor(-3)), INTEGERS),
    ],
)
def test_what_is_faithful_passes(name, module, x):
    assert check(name, module, x).status == "passed"


# By target: the model, its example, the options, the failure (None: a pass), and words of the report.
FAULTS = {
    "their_openvino": [
        (of(lambda x: x * 2**31), INTEGERS, {}, "OutputsDiffer", "runtime"),
        (of(lambda x: x.double().exp()), X, {}, "OutputsDiffer", "runtime"),
        (of(lambda x: x - 200), INTEGERS.to(torch.uint8), {}, "OutputsDiffer", "runtime"),
        (
            nn.Linear(8, 4),
            X,
            {"export_options": {"their_openvino": {"precision": "bf16"}}},
            None,
            "bfloat16",
        ),
    ],
    "their_aoti": [
        (Counter(64), X, {}, None, "forward changes buffer n"),
        (Counter(1), X, {}, "StateDiffers", "translation"),
        (cnn(), IMAGE, {}, None, "a channels_last one gives other results than eager"),
    ],
    "their_executorch": [
        (Counter(1), X, {}, None, "forward changes buffer n"),
        (of(lambda x: x % 3), INTEGERS, {}, "OutputsDiffer", "runtime"),
        (nn.GELU(approximate="tanh"), X, {}, "OutputsDiffer", "runtime"),
        (of(in_place), X, {}, "StateDiffers", "runtime"),
        (nn.Linear(8, 4), X.t().contiguous().t(), {}, "ArtifactRaised", "lie in memory"),
        (
            cnn(),
            IMAGE.contiguous(memory_format=torch.channels_last),
            {},
            None,
            "a contiguous one gives other results than eager",
        ),
    ],
}


@slow
def test_a_fault_has_its_owner_or_its_reason(name):
    for module, x, options, failure, words in FAULTS[name]:
        verdict = check(name, module, x, **options)
        found = verdict.diagnosis
        said = [*verdict.notes, found.owner or "", *(cause.text for cause in found.causes)]
        assert verdict.failure == failure, (module, verdict)
        assert words in "\n".join(said), (module, verdict)
