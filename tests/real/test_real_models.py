"""Well-known models: faithful artifacts pass, and a verdict quotes why a target refuses a model.

Needs transformers, timm and torchvision (versions: constraints.txt); skipped if they are missing.
"""

from __future__ import annotations

import pytest
import torch
from real.models import MODELS, stub_torchvision
from slow import EVERYTHING, slow

from pytest_torchexport import check_export, raise_for_failure

TARGETS = ("trace", "script", "export", "onnx")

# One of each kind in the half precisions, whose CPU kernels are slow: a text encoder, a vision
# transformer, a conv net.
HALVES = ("bert", "timm_vit_tiny", "squeezenet1_1")

CASES = [
    *((name, torch.float32) for name in MODELS),
    *((name, dtype) for name in HALVES for dtype in (torch.float16, torch.bfloat16)),
]

# transformers builds its configurations at run time: TorchScript finds no source to compile.
NO_SOURCE = "could not get source code"
# Messages of ONNX Runtime's CPU provider about bfloat16: it has no kernel, or rejects the file.
NO_KERNEL = "NOT_IMPLEMENTED : Could not find an implementation for Add"
NO_SUCH_TYPE = "Type 'tensor(bfloat16)' of input parameter"

# Models that a target refuses, with words of its reason.
REFUSED = {
    **{
        (name, dtype, "script"): NO_SOURCE
        for name, dtype in CASES
        if MODELS[name].library == "transformers"
    },
    ("bert", torch.bfloat16, "onnx"): NO_KERNEL,
    ("timm_vit_tiny", torch.bfloat16, "onnx"): NO_SUCH_TYPE,
    ("squeezenet1_1", torch.bfloat16, "onnx"): NO_SUCH_TYPE,
}

# The targets on which CI checks a model; `tox -e zoo` checks all models on all targets.
IN_CI = {
    ("timm_vit_tiny", torch.float32): ("trace", "script", "onnx"),
    ("squeezenet1_1", torch.float32): ("trace", "script", "onnx"),
    ("bert", torch.float16): ("trace",),
    ("timm_vit_tiny", torch.float16): ("export",),
    ("squeezenet1_1", torch.float16): ("export",),
}
# What CI checks of transformers in examples/test_bert.py.
IN_EXAMPLES = {("transformers", "trace"), ("transformers", "export"), ("transformers", "onnx")}

PAIRS = [
    pytest.param(case, target, id=f"{case[0]}-{str(case[1]).removeprefix('torch.')}-{target}")
    for case in CASES
    for target in (TARGETS if EVERYTHING else IN_CI.get(case, ()))
]


@pytest.fixture(scope="module")
def case(request):
    """Return the case; its scope sorts the tests by model, so that each is built once."""
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
    raise_for_failure(verdict)
    assert verdict.status == "passed", verdict.reason
    assert not verdict.ineffective
    assert verdict.reached["batch"][0] == 1
    assert sum(verdict.calls[kind] for kind in ("example", "boundary", "drawn")) >= 10


def test_ci_checks_every_library_on_every_target_that_takes_it():
    def taken(pairs):
        return {
            (MODELS[case[0]].library, target)
            for case, targets in pairs
            for target in targets
            if (*case, target) not in REFUSED
        }

    assert taken(IN_CI.items()) | IN_EXAMPLES == taken((case, TARGETS) for case in CASES)


@slow
def test_gpt2_padded_on_the_left_differs_in_onnx():
    """A masked first token of a causal model attends to nothing. For such rows torch's attention
    and its ONNX translation differ: a true difference, though seldom an important one."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    model, example = MODELS["gpt2"].build()
    anywhere = {**MODELS["gpt2"].options, "map": None}
    verdict = check_export(model, example, target="onnx", max_examples=10, **anywhere)
    assert verdict.failure == "OutputsDiffer", verdict.reason
