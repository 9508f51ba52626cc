"""targets/formats/contents.py: digests of weights, in memory and of a loaded file, and the user's own files."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from pytest_torchexport import targets
from pytest_torchexport.config.options import Options
from pytest_torchexport.inputs.spec import Call, build_spec
from pytest_torchexport.outcomes.torch_state import quiet
from pytest_torchexport.targets.formats.contents import digests


class Tensors(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.tied = nn.Linear(3, 3), nn.Linear(3, 3)
        self.tied.weight = self.first.weight
        self.register_buffer("low", torch.ones(3).half())
        self.register_buffer("turned", torch.arange(9.0).reshape(3, 3).t())

    def forward(self, x):
        return self.tied(self.first(x)) + self.low + self.turned.sum()


def exported(target, module, **options):
    example = Call((torch.ones(2, 3),))
    spec = build_spec(inspect.signature(module.forward), [example], Options(), {})
    with quiet("cpu"), torch.no_grad():
        return targets.get(target).export(module, example, spec, **options)


@pytest.mark.parametrize("target", ["trace", "script", "export"])
def test_weights_have_the_same_digests_in_memory_and_loaded(target, tmp_path):
    module = Tensors().eval()
    with torch.no_grad():
        told = exported(target, module).facts.weights()
        artifact = exported(target, module)
        with quiet("cpu"):
            path = artifact.save(tmp_path)
        module.first.bias[0] += 1
        other = exported(target, module).facts.weights()
    assert told["parameter first.weight"].startswith("float32[3, 3] ")
    assert told["buffer low"].startswith("float16[3] ")
    with quiet("cpu"):
        chosen = targets.get(target)
        assert chosen.traits.read(path, chosen.load(path, "cpu")).weights() == told
    assert [name for name in told if told[name] != other[name]] == ["parameter first.bias"]


def test_equal_values_have_equal_digests_whatever_their_strides():
    turned = torch.arange(6.0).reshape(2, 3).t().contiguous().t()
    told = digests({"a": turned, "b": turned.contiguous(), "c": turned.flip(0)}.items())
    assert told["a"] == told["b"] != told["c"]
    assert digests([("mask", torch.eye(3).to_sparse()), ("a number", 3)]) == {}  # no plain numbers


@pytest.mark.parametrize(
    ("target", "option", "load"),
    [
        ("trace", "_extra_files", torch.jit.load),
        ("script", "_extra_files", torch.jit.load),
        ("export", "extra_files", torch.export.load),
    ],
)
def test_extra_files_are_saved(target, option, load, tmp_path):
    labels, found = '["cat", "dog"]', {"labels.json": ""}
    given = {option: {"labels.json": labels}}
    path = exported(target, nn.Linear(3, 2).eval(), **given).save(tmp_path)
    with quiet("cpu"):
        load(path, **{option: found})
    assert found["labels.json"] in (labels, labels.encode())
