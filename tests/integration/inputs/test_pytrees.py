"""inputs/pytrees.py: arrays of numpy are drawn like tensors, reach callables as arrays, and no exporter takes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pytest_torchexport import check_export, engine
from pytest_torchexport.config.options import parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.results.text import failure_text

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def from_array(image):
    return MODEL(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)


def of_array(artifact):
    options = {"shapes": {"image": "h w 3"}, "dims": {"h": (8, 20)}, "checks": "parity"}
    plan = Plan(
        target="trace",
        device="cpu",
        max_examples=2,
        diagnoses=False,
        options=parse_check_options(options),
    )
    return engine.check_artifact(
        artifact, from_array, Call((np.zeros((16, 12, 3), np.uint8),)), plan
    )


def test_arrays_are_drawn_over_the_range_of_bytes_and_reach_the_callables_as_arrays():
    seen = []

    def served(image):
        seen.append((type(image), image.dtype, image.shape, int(image.max())))
        return from_array(image)

    verdict = of_array(served)
    assert verdict.status == "passed", failure_text(verdict)
    assert {(cls, dtype) for cls, dtype, _, _ in seen} == {(np.ndarray, np.dtype("uint8"))}
    assert len({shape for _, _, shape, _ in seen}) > 3
    assert max(most for _, _, _, most in seen) == 255
    assert "values of image are 0..255, all that uint8 holds" in map(str, verdict.assumed)


def test_channels_in_another_order_are_found_on_drawn_arrays():
    verdict = of_array(lambda image: from_array(image[..., ::-1].copy()))
    assert verdict.failure == "OutputsDiffer"


def test_arrays_that_are_returned_are_compared_by_their_numbers():
    verdict = of_array(lambda image: from_array(image).numpy())
    assert verdict.status == "passed", failure_text(verdict)
    assert of_array(lambda image: from_array(image).numpy() + 1).failure == "OutputsDiffer"


def of_numbers(artifact, eager, size=4):
    plan = Plan(
        target="trace",
        device="cpu",
        max_examples=2,
        diagnoses=False,
        options=parse_check_options({"checks": ["parity", "state"]}),
    )
    return engine.check_artifact(artifact, eager, Call((np.ones((size, 3), np.float32),)), plan)


def test_numbers_of_numpy_are_compared_as_its_arrays():
    """Its functions return them in place of arrays without axes."""
    verdict = of_numbers(lambda x: x.sum() / x.size, lambda x: x.mean())
    assert verdict.status == "passed", failure_text(verdict)
    for wrong in (lambda x: (x, x.max()), lambda x: (x, x.mean() + 1)):
        verdict = of_numbers(wrong, lambda x: (x, x.mean()))
        assert verdict.failure == "OutputsDiffer", failure_text(verdict)
        assert verdict.differences[0].path == "output[1]"
    assert of_numbers(lambda x: x.all(), lambda x: x.any()).failure == "OutputsDiffer"


def test_an_empty_array_is_not_said_to_be_replaced():
    verdict = of_numbers(lambda x: x * 2, lambda x: x + x, size=0)
    assert verdict.status == "passed", failure_text(verdict)
    assert "changes a container" not in repr(verdict)


@pytest.mark.parametrize("target", ["trace", "script", "export", "onnx"])
def test_an_exporter_refuses_arrays_in_plain_words(target):
    class Takes(nn.Module):
        def forward(self, image):
            return torch.from_numpy(image).float()

    verdict = check_export(Takes(), (np.ones((3, 2), np.float32),), target=target)
    assert verdict.failure == "ExportRefused"
    assert verdict.reason == "image is an array of numpy, which no exporter takes"
    assert "reference=" in verdict.details[0]


def test_texts_bytes_and_objects_are_those_of_the_call():
    class Picture:
        def __init__(self):
            self.pixels = [1.0, 2.0]

    def served(text, raw, picture):
        return torch.tensor([float(len(text)), float(sum(raw)), *picture.pixels])

    plan = Plan(target="trace", device="cpu", max_examples=2)
    verdict = engine.check_artifact(served, served, Call(("four", b"ab", Picture())), plan)
    assert verdict.status == "passed", failure_text(verdict)
    assert [str(item) for item in verdict.assumed] == [
        "text stays 'four'",
        "raw stays 2 bytes",
        "picture stays Picture",
    ]
