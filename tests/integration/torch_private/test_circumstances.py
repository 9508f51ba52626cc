"""torch_private/circumstances.py: transforms, modes and torch's frames are noticed."""

import warnings

import pytest
import torch
from torch import nn

from pytest_torchexport.torch_private.circumstances import (
    is_transforming,
    places_of,
)


def test_transforms_of_torch_func_are_known():
    seen = []
    torch.func.vmap(lambda x: seen.append(is_transforming()) or x)(torch.ones(2))
    assert seen == [True]
    assert not is_transforming()


class _Logs(nn.Module):
    def forward(self, x):
        warnings.formatwarning("called", UserWarning, "file", 1)
        return x


def test_what_a_script_was_about_to_compile_is_read_from_the_exception():
    with pytest.raises(Exception) as caught:  # torch has many classes
        torch.jit.script(_Logs())
    assert any(__file__ in place for place in places_of(caught.value))


def test_the_node_that_an_exporter_translated_is_read_from_the_exception():
    def translates():
        program = torch.export.export(nn.ReLU(), (torch.ones(2),))
        node = next(node for node in program.graph.nodes if node.op == "call_function")
        node.meta["stack_trace"] = "here"
        raise ValueError("no translation")

    # The function has to look like one of torch's.
    code = translates.__code__.replace(co_filename="torch/onnx/exporter.py")
    with pytest.raises(ValueError, match="no translation") as caught:
        type(translates)(code, globals())()
    assert places_of(caught.value) == ["here"]
