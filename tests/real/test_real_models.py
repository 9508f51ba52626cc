"""Well-known models: faithful artifacts pass, and a verdict quotes why a target refuses a model, or what it freezes.

Needs transformers, timm and torchvision (versions: constraints.txt); skipped if they are missing.
"""

from __future__ import annotations

import pytest
import torch
from real.models import MODELS, VOCABULARY, calibrate, stub_torchvision
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
    assert not [note for note in verdict.notes if "no source" in note or "more functions" in note]
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


# -- branches inside a library ---------------------------------------------------------------------


def llama():
    """Rotary embeddings that grow beyond the trained length."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=16,
        use_cache=False,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    )
    return LlamaForCausalLM(config)


def resampled():
    """Position embeddings that are resampled for other sizes."""
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", num_classes=4, img_size=32, depth=1, dynamic_img_size=True
    )


def googlenet():
    """Flags of auxiliary heads, which depend on no input."""
    import torchvision

    model = torchvision.models.googlenet(num_classes=4, aux_logits=True, init_weights=False)
    calibrate(model.eval(), (torch.randn(8, 3, 32, 32),))
    return model


LENGTHS = {"shapes": {"input_ids": "batch time"}, "dims": {"batch": (1, 3), "time": (1, 24)}}
SIZES = {
    "shapes": {"x": "batch 3 h w"},
    "dims": {"batch": (1, 2), "h": [16, 32, 48], "w": [16, 32, 48]},
}
# A library, a model, its options, and the line that its trace freezes: the one on which its tokens
# depend, not one that runs only on its side.
BRANCHES = [
    ("transformers", llama, LENGTHS, "if seq_len > max_seq_len_cached"),
    ("timm", resampled, SIZES, "num_new_tokens == num_pos_tokens"),
    ("torchvision", googlenet, {"dims": {"batch": (1, 2)}}, None),
]


@slow
@pytest.mark.parametrize(("library", "build", "options", "line"), BRANCHES)
def test_branches_that_depend_on_the_input_are_frozen_and_flags_are_not(
    library, build, options, line
):
    stub_torchvision()
    pytest.importorskip(library)
    torch.manual_seed(0)
    example = torch.randint(3, VOCABULARY, (2, 7)) if build is llama else torch.randn(2, 3, 32, 32)
    options = {**options, "checks": ["parity", "control_flow"], "max_examples": 5}
    verdict = check_export(build().eval(), (example,), target="trace", **options)
    assert verdict.failure == ("BranchFrozen" if line else None), verdict.reason
    if line:
        assert line in verdict.where.text
    else:
        assert not verdict.ineffective
        assert verdict.branch_coverage is None
