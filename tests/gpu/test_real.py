"""Models of libraries on CUDA, in float32 and in half precision: a faithful artifact passes."""

from __future__ import annotations

import pytest
import torch
from gpu.trial import DEVICE
from real.models import MODELS, stub_torchvision
from real.test_real_models import CASES

from pytest_torchexport import check_export

MAX_EXAMPLES = 10
TARGETS = ("trace", "export")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_real_model_passes(name: str, dtype: torch.dtype, target: str) -> None:
    stub_torchvision()
    pytest.importorskip(MODELS[name].library)
    model, example = MODELS[name].build(dtype)
    options = MODELS[name].options
    verdict = check_export(
        model, example, target=target, device=DEVICE, max_examples=MAX_EXAMPLES, **options
    )
    assert verdict.status == "passed", verdict
    assert not verdict.ineffective, verdict
