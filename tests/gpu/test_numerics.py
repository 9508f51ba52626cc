"""Rounding that is CUDA's own is no failure; a model that asks for its device is one where it is served elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gpu.trial import DEVICE, ON_CUDA, TARGETS
from torch import Tensor, nn
from torch.nn import functional

from pytest_torchexport import check_export

MAX_EXAMPLES = 10
HALF = (torch.float16, torch.bfloat16)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(16, 32, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


class Scattered(nn.Module):
    """Adds with atomics, in an order of its own on each call."""

    def forward(self, x: Tensor) -> Tensor:
        index = torch.zeros(x.shape[-1], dtype=torch.long, device=x.device)
        return torch.zeros_like(x).index_add(-1, index, x).cumsum(0)


class Resized(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2.0, mode="bilinear", antialias=True)


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.float16):
            return self.layer(x).float().softmax(-1)


def _convs() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def _wide() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 4096), nn.GELU(), nn.Linear(4096, 16))


ROWS, IMAGES, STEPS = (3, 16), (2, 3, 12, 12), (2, 5, 16)
HEALTHY = [
    *(
        (make, shape, torch.float32)
        for make, shape in [
            *((_convs, IMAGES), (_wide, ROWS), (Recurrent, STEPS), (Attention, STEPS)),
            *((Scattered, ROWS), (Resized, IMAGES), (Autocast, ROWS)),
        ]
    ),
    *(
        (make, shape, dtype)
        for make, shape in [(_convs, IMAGES), (_wide, ROWS), (Attention, STEPS)]
        for dtype in HALF
    ),
]


def check(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    target: str,
    **options,
):
    torch.manual_seed(0)
    model, x = make().to(dtype).eval(), torch.randn(shape).to(dtype)
    return check_export(
        model, (x,), target=target, device=DEVICE, max_examples=MAX_EXAMPLES, **options
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("make", "shape", "dtype"), HEALTHY)
def test_rounding_is_no_failure(make, shape, dtype, target):
    verdict = check(make, shape, dtype, target)
    assert verdict.status == "passed", verdict
    assert not verdict.ineffective, verdict


@pytest.mark.parametrize("target", ["trace", "export"])
def test_with_the_precision_of_who_serves(target):
    verdict = check(_wide, ROWS, torch.float32, target, threads=2)
    assert verdict.status == "passed", verdict


class Shrunk(nn.Module):
    """A thousandth more above three rows: an artifact has that of the example."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (1 + 1e-3 * int(x.shape[0] > 3))


@pytest.mark.parametrize("target", ["trace", "export"])
def test_an_error_above_rounding_is_red(target):
    verdict = check(Shrunk, ROWS, torch.float32, target)
    failures = {
        "trace": ("BranchFrozen", "OutputsDiffer"),
        "export": ("DimsNarrowed", "ExportRefused"),
    }
    assert verdict.failure in failures[target], verdict


# -- models that ask for their device --------------------------------------------------------------


class Asks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.is_cuda else x * 3


class Makes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(x.shape[-1], device="cuda" if torch.cuda.is_available() else "cpu")


class Moves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cuda().mul(2).cpu()


# By the model and the device that serves an artifact of CUDA: the failure on each target.
EXPECTED = {
    (Asks, DEVICE): dict.fromkeys(TARGETS),
    (Asks, "cpu"): {"trace": "RoundTripDiffers", "script": None, "export": "RoundTripDiffers"},
    # On the CPU its forward would mix devices, and each call is made there first.
    (Makes, DEVICE): dict.fromkeys(TARGETS, "SpecError"),
    (Moves, DEVICE): dict.fromkeys(TARGETS),
    (Moves, "cpu"): dict.fromkeys(TARGETS, "RoundTripDiffers"),
}


@pytest.mark.skipif(not ON_CUDA, reason="there is one device only")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("make", "served"), EXPECTED)
def test_a_model_that_asks_for_its_device(make, served, target):
    verdict = check(make, ROWS, torch.float32, target, serve_on=[served])
    assert verdict.failure == EXPECTED[make, served][target], str(verdict)
