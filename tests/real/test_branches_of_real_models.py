"""Branches of library models: those that depend on the input are explored, others cause no warning.

Each truth was established by running eager and the artifact by hand. Needs transformers, timm and
torchvision; skipped if they are missing.
"""

from __future__ import annotations

import pytest
import torch
from real.models import calibrate, stub_torchvision
from slow import slow

from pytest_torchexport import check_export

CHECKS = ("parity", "control_flow")
TINY = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
TEXT = {
    "shapes": {"input_ids": "batch sequence"},
    "dims": {"batch": (1, 3), "sequence": (1, 24)},
}


def library(name):
    stub_torchvision()
    return pytest.importorskip(name, reason=f"needs {name}")


def traced(model, args=(), kwargs=None, **options):
    torch.manual_seed(0)
    return check_export(
        model.eval(), args, kwargs, target="trace", checks=CHECKS, max_examples=5, **options
    )


def ids():
    generator = torch.Generator().manual_seed(0)
    return {"input_ids": torch.randint(3, 32, (2, 7), generator=generator)}


@slow
def test_branches_inside_a_library_model_are_explored_without_a_warning():
    transformers = library("transformers")
    model = transformers.BertModel(transformers.BertConfig(**TINY))
    verdict = traced(model, (), ids(), **TEXT)
    assert verdict.status == "passed", verdict.reason
    assert not verdict.ineffective
    assert not [note for note in verdict.notes if "no source" in note or "more functions" in note]
    assert any("modeling_bert.py" in row.where.file and not row.module for row in verdict.branches)


@slow
def test_rotary_embeddings_that_grow_beyond_the_trained_length():
    transformers = library("transformers")
    config = transformers.LlamaConfig(
        **{**TINY, "max_position_embeddings": 16},
        num_key_value_heads=1,
        use_cache=False,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    )
    verdict = traced(transformers.LlamaForCausalLM(config), (), ids(), **TEXT)
    assert verdict.failure == "BranchFrozen", verdict.reason
    assert "if seq_len > max_seq_len_cached" in verdict.where.text


@slow
def test_position_embeddings_that_are_resampled_for_other_sizes():
    """The verdict names the branch on the number of tokens, not one that runs only on its side."""
    model = library("timm").create_model(
        "vit_tiny_patch16_224", num_classes=4, img_size=32, depth=1, dynamic_img_size=True
    )
    verdict = traced(
        model,
        (torch.randn(2, 3, 32, 32),),
        shapes={"x": "batch 3 h w"},
        dims={"batch": (1, 2), "h": [16, 32, 48], "w": [16, 32, 48]},
    )
    assert verdict.failure == "BranchFrozen", verdict.reason
    assert "num_new_tokens == num_pos_tokens" in verdict.where.text


@slow
def test_flags_of_a_network_with_auxiliary_heads_depend_on_no_input():
    model = (
        library("torchvision")
        .models.get_model(
            "googlenet", num_classes=4, aux_logits=True, init_weights=False, transform_input=True
        )
        .eval()
    )
    calibrate(model, (torch.randn(8, 3, 32, 32),))
    verdict = traced(model, (torch.randn(2, 3, 32, 32),), dims={"batch": (1, 2)})
    assert verdict.status == "passed", verdict.reason
    assert not verdict.ineffective
    assert verdict.branch_coverage is None
