"""outcomes/cuda.py: with facts of CUDA that a test makes up, on machines that have none."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.subject import unusable_device
from pytest_torchexport.outcomes.torch_state import quiet, users_precision

ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"


class Gpu:
    """A GPU as torch tells of it, and a record of what was asked. ``error``: why it cannot be used."""

    def __init__(self):
        self.error = None
        self.asked = []

    def synchronize(self, device=None):
        self.asked.append(device)
        if self.error is not None:
            raise RuntimeError(self.error)

    def ask(self, name, *_):
        self.asked.append(name)


@pytest.fixture
def gpu(monkeypatch):
    fake = Gpu()
    monkeypatch.setattr(cuda, "_lost", [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", fake.synchronize)
    for name in ("get_rng_state_all", "set_rng_state_all", "manual_seed_all", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, partial(fake.ask, name))
    return fake


class There(torch.Tensor):
    """A tensor that says it is on CUDA."""

    is_cuda = True


# -- settings --------------------------------------------------------------------------------------


def test_the_users_precision_comes_back_for_a_while_during_a_check():
    torch.set_float32_matmul_precision("high")
    try:
        with quiet("cuda"):
            with users_precision():
                assert torch.backends.cuda.matmul.allow_tf32
                assert torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(("device", "inside"), [("cuda:0", (False, True)), ("cpu", (True, False))])
def test_cudnn_picks_its_kernels_alike_in_each_run(monkeypatch, device, inside):
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", True)
    with quiet(device):
        assert (cudnn.benchmark, cudnn.deterministic) == inside
    assert (cudnn.benchmark, cudnn.deterministic) == (True, False)


def test_nothing_is_asked_of_a_gpu_that_nobody_uses(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with quiet("cpu"):
        observe(nn.Identity(), Call((torch.ones(2).as_subclass(There),)), seed=0)
        cuda.release()
    assert gpu.asked == []
    assert cuda.lost() == ""


# -- errors that arrive late, and a lost context ---------------------------------------------------


def test_a_call_waits_for_its_devices(gpu):
    x = torch.ones(2).as_subclass(There)
    cuda.wait_for((x,), {"again": [x]}, torch.ones(2))
    assert gpu.asked == [x.device]


def test_a_call_that_loses_the_context_is_named_and_nothing_is_asked_of_cuda_any_more(gpu):
    def forward(x):
        gpu.error = ASSERT
        raise RuntimeError("CUDA error: device-side assert triggered")

    assert unusable_device("cuda") is None
    with pytest.raises(cuda.ContextLost, match=r"^CUDA error: device-side assert triggered$"):
        observe(forward, Call((torch.ones(2),)), seed=0)
    assert not cuda.in_use()
    assert "an earlier call made CUDA unusable in this process" in unusable_device("cuda")
    assert unusable_device("cpu") is None
    gpu.asked.clear()
    with quiet("cpu"):
        outcome = observe(nn.Identity(), Call((torch.ones(2),)), seed=0)
        cuda.release()
    assert isinstance(outcome, Returned)
    assert gpu.asked == []


def test_the_random_streams_are_put_back_and_unused_memory_is_returned(gpu, monkeypatch):
    put_back = []
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: ["state"])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", put_back.append)
    with quiet("cuda"):
        cuda.release()
    assert put_back == [["state"]]
    assert "empty_cache" in gpu.asked
