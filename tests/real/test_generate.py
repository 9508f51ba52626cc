"""transformers' own loop with an artifact in the place of the model: it reads the model's configuration, its attributes
and the signature of its forward, and calls it with longer and longer texts.

Needs transformers (version: constraints.txt); skipped if it is missing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from slow import slow

SUITE = """
import pytest, torch
from real.models import stub_torchvision

LIBRARY = stub_torchvision()
import transformers

IDS = torch.randint(1, 32, (1, 5), generator=torch.Generator().manual_seed(1))
SMALL = {"vocab_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
STEPS = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}

def causal():
    config = transformers.LlamaConfig(hidden_size=16, num_key_value_heads=2, **SMALL)
    return transformers.LlamaForCausalLM(config), {"input_ids": IDS}

def encoder_decoder():
    config = transformers.T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2,
        decoder_start_token_id=1,
    )
    return transformers.T5ForConditionalGeneration(config), {"input_ids": IDS}

def vision():
    image = transformers.ViTConfig(hidden_size=16, image_size=16, patch_size=8, **SMALL)
    text = transformers.GPT2Config(
        vocab_size=32, n_embd=16, n_layer=1, n_head=2, add_cross_attention=True, is_decoder=True,
        bos_token_id=1, eos_token_id=2,
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(image, text)
    model = transformers.VisionEncoderDecoderModel(config=config)
    return model, {"inputs": torch.rand(1, 3, 16, 16), "decoder_start_token_id": 1}

TOKENS = {}

@pytest.mark.torchexport("TARGET", stand_in=True, checks="dims")
def test_generate():
    torch.manual_seed(0)
    model, given = MODEL()
    tokens = model.eval().generate(**given, **STEPS, use_cache=False)
    assert tokens.shape[1] >= 7
    assert torch.equal(tokens, TOKENS.setdefault("first", tokens))
"""
# Calls of forward, by the model: an encoder has one of its own.
CALLS = {"causal": 6, "encoder_decoder": 7, "vision": 7}


@slow
@pytest.mark.parametrize("target", ["export", "onnx"])
@pytest.mark.parametrize("model", CALLS)
def test_generate_runs_on_the_artifact(pytester, model, target):
    pytest.importorskip("transformers")
    pytester.makepyfile(SUITE.replace("TARGET", target).replace("MODEL", model))
    # In a process of its own: transformers is loaded piece by piece, which a run in this one forgets.
    result = pytester.runpytest_subprocess(
        *("-p", "no:jaxtyping", "-W", "ignore", "--hypothesis-seed=1"),
        *("-o", f"pythonpath={Path(__file__).parents[1]}", "--torchexport-report=json:out.json"),
    )
    result.assert_outcomes(passed=1)
    (item,) = json.loads((pytester.path / "out.json").read_text())["items"]
    note = f"stand_in: {CALLS[model]} of {CALLS[model]} calls of the body ran on artifacts"
    assert all(note in verdict["notes"] for verdict in item["verdicts"])
