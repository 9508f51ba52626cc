"""Models people really ship must pass, and what a target really refuses must be said: no false alarms.

Needs transformers, timm and torchvision (their versions: constraints.txt); skipped where they are missing.
"""

from __future__ import annotations

import os
import zlib

import pytest
import torch
from real.models import MODELS, stub_torchvision

from pytest_torchexport import check_export

TARGETS = ("trace", "script", "export", "onnx")

# One of each kind in the half precisions: a text encoder, a causal one, a vision transformer, conv nets with
# batch norm and without. Their CPU kernels are slow, and the others add no further kind.
HALVES = ("bert", "timm_vit_tiny", "squeezenet1_1")

CASES = [
    *((name, torch.float32) for name in MODELS),
    *((name, dtype) for name in HALVES for dtype in (torch.float16, torch.bfloat16)),
]

# transformers builds its configurations at run time: TorchScript finds no source to compile.
NO_SOURCE = "could not get source code"
# What ONNX Runtime's CPU provider says to bfloat16: it has no kernel, or takes the file itself for invalid.
NO_KERNEL = "NOT_IMPLEMENTED : Could not find an implementation for Add"
NO_SUCH_TYPE = "Type 'tensor(bfloat16)' of input parameter"

# What refuses a model for good, and in which words.
REFUSED = {
    **{
        (name, dtype, "script"): NO_SOURCE
        for name, dtype in CASES
        if MODELS[name].library == "transformers"
    },
    ("bert", torch.bfloat16, "onnx"): NO_KERNEL,
    ("gpt2", torch.bfloat16, "onnx"): NO_KERNEL,
    ("timm_vit_tiny", torch.bfloat16, "onnx"): NO_SUCH_TYPE,
    ("timm_resnet10t", torch.bfloat16, "onnx"): NO_SUCH_TYPE,
    ("squeezenet1_1", torch.bfloat16, "onnx"): NO_SUCH_TYPE,
}


# As of the zoo, all of them are checked by `tox -e zoo`; otherwise each on two targets.
EVERYTHING = os.environ.get("TORCHEXPORT_ZOO") == "all"
PAIRS = [
    pytest.param(case, target, id=f"{case[0]}-{str(case[1]).removeprefix('torch.')}-{target}")
    for case in CASES
    for number, target in enumerate(TARGETS)
    if EVERYTHING or (zlib.crc32(f"{case}".encode()) - number) % 2
]


@pytest.fixture(scope="module")
def case(request):
    """One model after the other: all targets of a model share one that is built once."""
    library = MODELS[request.param[0]].library
    stub_torchvision()
    pytest.importorskip(library, reason=f"{library} is not installed")
    return request.param


@pytest.fixture(scope="module")
def built(case):
    name, dtype = case
    return MODELS[name].build(dtype)


@pytest.mark.parametrize(("case", "target"), PAIRS, indirect=["case"])
def test_real_model(case, built, target):
    model, example = built
    options = MODELS[case[0]].options
    verdict = check_export(model, example, target=target, max_examples=10, **options)
    refusal = REFUSED.get((*case, target))
    if refusal:
        assert verdict.failure == "ExportRefused", verdict.reason
        assert refusal in verdict.reason
        return
    verdict.raise_for_failure()
    assert verdict.status == "passed", verdict.reason
    assert not verdict.ineffective
    assert verdict.reached["batch"][0] == 1
    assert sum(verdict.calls[kind] for kind in ("example", "boundary", "drawn")) >= 10


def test_gpt2_padded_on_the_left_differs_in_onnx():
    """The first tokens of a causal model attend to themselves alone; where they are masked, to nothing. There
    torch's attention and its ONNX translation differ: true, if seldom of importance (only those rows do)."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    model, example = MODELS["gpt2"].build()
    anywhere = {**MODELS["gpt2"].options, "map": None}
    verdict = check_export(model, example, target="onnx", max_examples=10, **anywhere)
    assert verdict.failure == "OutputsDiffer", verdict.reason
