"""The targets of further runtimes on one operation at a time: what is faithful passes, what is not has its reason."""

from __future__ import annotations

import math

import pytest
import torch
from slow import slow
from small_models import of
from torch import nn
from torch.nn import functional as F

from pytest_torchexport import check_export, targets

RUNTIMES = ("openvino", "openvino_trace", "aoti", "executorch")
BY_OPENVINO = RUNTIMES[:2]
GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(4, 8, generator=GENERATOR)
IMAGE = torch.randn(2, 3, 9, 9, generator=GENERATOR)
INTEGERS = torch.randint(-20, 20, (4, 8), generator=GENERATOR)
BYTES = torch.randint(0, 255, (4, 8), dtype=torch.uint8, generator=GENERATOR)
NAN = X.clone().index_put_((torch.tensor([0]), torch.tensor([0])), torch.tensor(math.nan))

# The operation, its example, and by runtime a part of the reason why the artifact differs; empty if
# the report knows none.
ROWS = {
    # Faithful on all.
    "truncated division": (lambda x: torch.div(x, 3, rounding_mode="trunc"), INTEGERS, {}),
    "power": (lambda x: x.abs() ** 2.5, X, {}),
    "isnan": (torch.isnan, NAN, {}),
    "exp": (torch.exp, X * 20, {}),
    "sine of much": (torch.sin, X * 100, {}),
    "round half to even": (lambda x: torch.round(x * 2) / 2, X, {}),
    "scaled addend": (lambda x: torch.add(x, x.flip(1), alpha=10), X, {}),
    "addmm": (lambda x: torch.addmm(x, x, torch.eye(8), beta=2, alpha=3), X, {}),
    "variance": (lambda x: x.var(1), X, {}),
    "sum of bools": (lambda x: (x > 0).sum(1), X, {}),
    "sum of bytes": (lambda x: x.sum(1), BYTES, {}),
    "cumsum": (lambda x: x.cumsum(1), X, {}),
    "logsumexp": (lambda x: x.logsumexp(1), X, {}),
    "topk": (lambda x: x.topk(3).values, X, {}),
    "negative index": (lambda x: x[:, [-1, 3]], X, {}),
    "scatter_add": (
        lambda x: torch.zeros_like(x).scatter_add(1, (x > 0).long(), x),
        X,
        {},
    ),
    "masked_fill": (lambda x: x.masked_fill(x > 0, -1), X, {}),
    "roll": (lambda x: x.roll(1, 1), X, {}),
    "reflected": (lambda x: F.pad(x[None], (1, 2), mode="reflect"), X, {}),
    "transposed": (lambda x: x.permute(1, 0).contiguous() * 2, X, {}),
    "arange of the batch": (lambda x: x + torch.arange(x.shape[0])[:, None], X, {}),
    "strided convolution": (nn.Conv2d(3, 4, 3, padding=1, stride=2), IMAGE, {}),
    "grouped convolution": (nn.Conv2d(3, 3, 3, dilation=2, groups=3), IMAGE, {}),
    "transposed convolution": (
        nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1),
        IMAGE,
        {},
    ),
    "pooling without the padding": (
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        IMAGE,
        {},
    ),
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), IMAGE, {}),
    "batch norm": (nn.BatchNorm2d(3), IMAGE, {}),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]),
        X[:, None].repeat(1, 3, 1),
        {},
    ),
    # What is known of some.
    "floor division": (
        lambda x: x // torch.tensor(-3),
        INTEGERS,
        {"openvino_trace": "divides negative integers towards zero"},
    ),
    "remainder": (lambda x: x % 3, INTEGERS, {"executorch": "computes % of integers as C does"}),
    "nonzero": (torch.nonzero, X, {"executorch": "nonzero returns other indices"}),
    "layer norm": (nn.LayerNorm(8), X + 100, {"executorch": "the variance of a norm"}),
    "group norm": (nn.GroupNorm(3, 3), IMAGE + 100, {"executorch": "the variance of a norm"}),
    "tanh GELU": (nn.GELU(approximate="tanh"), X, {"executorch": "as the exact GELU"}),
    "rsqrt": (lambda x: x.relu().rsqrt(), X, {"executorch": "rsqrt of 0 is nan"}),
    "sort": (lambda x: x.sort(1).values, X, {"executorch": "no kernel for it"}),
    "split": (lambda x: x.split(3, 1), X, {"executorch": "batch == 4: the size is static"}),
    "shift": (
        lambda x: x >> 1,
        INTEGERS,
        {"openvino": "as if they had no sign", "executorch": "has no __rshift__"},
    ),
    "bytes": (lambda x: x - 200, BYTES, dict.fromkeys(BY_OPENVINO, "stop at their ends")),
    "large integers": (lambda x: x * 2**31, INTEGERS, dict.fromkeys(BY_OPENVINO, "in 32 bits")),
    "float64": (lambda x: x.double().exp(), X, dict.fromkeys(BY_OPENVINO, "float64 in float32")),
    "relu of nan": (torch.relu, NAN, dict.fromkeys(BY_OPENVINO, "does not carry nan on")),
    "where of nan": (
        lambda x: torch.where(x > 0, x, 0.0),
        NAN,
        dict.fromkeys(BY_OPENVINO, "does not carry nan on"),
    ),
    "maximum of nan": (
        lambda x: torch.maximum(x, x.flip(1)),
        NAN,
        {
            **dict.fromkeys(BY_OPENVINO, "does not carry nan on"),
            "executorch": "of nan and a number",
        },
    ),
    "floor division of floats": (
        lambda x: x // 0.3,
        X,
        {"openvino": "", "openvino_trace": "", "aoti": "as floor(x / y)"},
    ),
    "cummax": (
        lambda x: x.cummax(1).values,
        X,
        {**dict.fromkeys(BY_OPENVINO, "cummax"), "executorch": "has no cummax"},
    ),
}


def _cases():
    for runtime in RUNTIMES:
        missing = targets.get(runtime).unavailable("cpu")
        marks = [slow, pytest.mark.skipif(missing is not None, reason=str(missing))]
        for name in ROWS:
            yield pytest.param(runtime, name, marks=marks, id=f"{name.replace(' ', '-')}-{runtime}")


@pytest.mark.parametrize(("runtime", "name"), [*_cases()])
def test_an_operation_passes_or_has_its_reason(runtime, name):
    run, x, reasons = ROWS[name]
    torch.manual_seed(0)
    module = of(run)
    verdict = check_export(module, (x,), target=runtime, dims={"batch": (1, 8)}, max_examples=15)
    if runtime not in reasons:
        assert verdict.status == "passed", verdict
        return
    found = verdict.diagnosis
    said = [*verdict.details, *(item.text for item in (*found.causes, *found.known))]
    assert verdict.status == "failed", verdict
    assert reasons[runtime] in "\n".join([verdict.reason, *said]), verdict
