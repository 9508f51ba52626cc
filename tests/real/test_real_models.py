"""Models people really ship must pass, and what a target really refuses must be said: no false alarms.

Needs transformers, timm and torchvision (their versions: constraints.txt); skipped where they are missing.
"""

from __future__ import annotations

import pytest
from real.models import MODELS, stub_torchvision

from pytest_torchexport import check_export

TARGETS = ("trace", "script", "export", "onnx")

# transformers builds its configurations at run time: TorchScript finds no source to compile.
REFUSED = {("transformers", "script")}


@pytest.fixture(scope="module", params=MODELS)
def name(request):
    """One model after the other: all targets of a model share one that is built once."""
    library = MODELS[request.param].library
    stub_torchvision()
    pytest.importorskip(library, reason=f"{library} is not installed")
    return request.param


@pytest.fixture(scope="module")
def built(name):
    return MODELS[name].build()


@pytest.mark.parametrize("target", TARGETS)
def test_real_model(name, built, target):
    model, example = built
    verdict = check_export(model, example, target=target, max_examples=10, **MODELS[name].options)
    if (MODELS[name].library, target) in REFUSED:
        assert verdict.failure == "ExportRefused", verdict.reason
        return
    verdict.raise_for_failure()
    assert verdict.status == "passed", verdict.reason
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
