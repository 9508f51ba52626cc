"""Behavior that is CUDA's own: serving on both devices, settings, memory, modules that live there."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from gpu.trial import DEVICE, ON_CUDA, TARGETS
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.outcomes.torch_state import quiet

MAX_EXAMPLES = 5
# What a context and its libraries may keep, in bytes.
KEPT = 64 * 2**20


class Net(nn.Module):
    """A healthy model that makes a tensor where its input is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)
        self.register_buffer("scale", torch.full((3,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * self.scale + torch.arange(3, device=x.device)


class Buffered(Net):
    """The same without a device that becomes a constant of a trace."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * self.scale


class Mixed(nn.Module):
    """One output stays on the CPU."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, x.sum().cpu()


class Left(nn.Module):
    """A tensor that does not move with its module."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.ones(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.shift


def check(module: nn.Module, target: str, device: str = DEVICE, at: str = "cpu", **options: Any):
    x = torch.linspace(-1, 1, 8).reshape(2, 4).to(at)
    options = {"max_examples": MAX_EXAMPLES, **options}
    return check_export(module.to(at), (x,), target=target, device=device, **options)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("at", ["cpu", DEVICE])
@pytest.mark.parametrize("device", ["cpu", DEVICE])
@pytest.mark.parametrize("model", [Net, Mixed])
def test_a_healthy_module_passes_wherever_it_lives(model, target, at, device):
    verdict = check(model(), target, device, at)
    assert verdict.status == "passed", verdict


@pytest.mark.parametrize(
    ("target", "made", "served"),
    [(target, "cpu", DEVICE) for target in TARGETS]
    + [("trace", DEVICE, "cpu"), ("script", DEVICE, "cpu")],
)
def test_a_healthy_artifact_is_served_on_the_other_device(target, made, served):
    verdict = check(Buffered(), target, made, serve_on=[served])
    assert verdict.status == "passed", verdict
    assert not verdict.ineffective, verdict


@pytest.mark.skipif(not ON_CUDA, reason="there is no other device to serve on")
@pytest.mark.parametrize(("made", "served"), [("cpu", DEVICE), (DEVICE, "cpu")])
def test_a_trace_that_is_tied_to_its_device_is_red(made, served):
    verdict = check(Net(), "trace", made, serve_on=[served])
    assert verdict.failure == "RoundTripDiffers", verdict


@pytest.mark.skipif(not ON_CUDA, reason="there is no other device to serve on")
def test_a_program_of_cuda_cannot_be_loaded_without_it():
    verdict = check(Buffered(), "export", DEVICE, serve_on=["cpu"])
    assert verdict.failure == "RoundTripDiffers", verdict
    assert any("export the model on the CPU" in line for line in verdict.details), verdict


@pytest.mark.skipif(not ON_CUDA, reason="on the CPU nothing is left behind")
def test_a_module_that_does_not_move_is_eagers_own_fault():
    verdict = check(Left(), "trace")
    assert verdict.failure == "SpecError", verdict
    assert "and not on the CPU" in verdict.reason


def _settings() -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    return {
        "matmul": torch.get_float32_matmul_precision(),
        "cudnn": cudnn.allow_tf32,
        "benchmark": cudnn.benchmark,
        "deterministic": cudnn.deterministic,
        "threads": torch.get_num_threads(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()] if ON_CUDA else [],
    }


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_settings_and_random_streams_are_put_back(precision):
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.benchmark = True
    before = _settings()
    try:
        with quiet(DEVICE):
            assert not ON_CUDA or not torch.backends.cuda.matmul.allow_tf32
        assert check(nn.Sequential(nn.Linear(4, 3), nn.Dropout()), "trace").status == "passed"
        assert _settings() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.benchmark = False


def test_memory_is_returned():
    def taken() -> int:
        gc.collect()
        return torch.cuda.memory_reserved() if ON_CUDA else 0

    check(Buffered(), "trace")  # the first one loads libraries
    before = taken()
    verdicts = [check(nn.Sequential(nn.Linear(4, 2**20), nn.ReLU()), "trace") for _ in range(3)]
    assert [verdict.status for verdict in verdicts] == ["passed"] * 3, verdicts
    assert taken() <= before + KEPT
