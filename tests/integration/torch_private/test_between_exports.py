"""torch_private/between_exports.py: what exporters keep is found, forgotten, and no weights stay."""

import gc
import weakref

import pytest
import torch
from scripted import Scripted
from torch import nn

from pytest_torchexport.torch_private.between_exports import (
    forget_decompositions,
    forget_onnx_matches,
    forget_script_types,
    onnx_translations_kept,
)


def test_what_an_operator_remembers_of_its_decomposition_is_forgotten():
    lstm = torch.ops.aten.lstm.input
    lstm._dispatch_cache["a key of ours"] = None
    forget_decompositions(lstm)
    assert not lstm._dispatch_cache


def test_the_types_of_scripts_are_forgotten():
    store = torch.jit._recursive.concrete_type_store.type_store
    torch.jit.script(Scripted())
    assert store
    forget_script_types()
    assert not store


@pytest.mark.filterwarnings("ignore")
def test_translations_of_onnx_are_collected_once_and_are_those_of_torch():
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    def relu(registry):
        return [meta.onnx_function for meta in registry.functions["aten::relu"]]

    own, plain = ONNXRegistry.from_torchlib(20), ONNXRegistry.from_torchlib.__func__
    with onnx_translations_kept():
        first, again = ONNXRegistry.from_torchlib(20), ONNXRegistry.from_torchlib(20)
        other = ONNXRegistry.from_torchlib(18)
        again.register_op(torch.ops.aten.relu.default, torch.relu)
        third = ONNXRegistry().from_torchlib(opset_version=20)
        with torch.library._scoped_library("torchexport_test", "DEF") as library:
            library.define("one_more(Tensor x) -> Tensor")
            renewed = ONNXRegistry.from_torchlib(20)
    assert relu(own) == relu(first) == relu(third) == relu(renewed)
    assert own.functions.keys() == first.functions.keys()
    assert [each.opset_version for each in (first, again, other, third)] == [20, 20, 18, 20]
    assert len(again.functions["aten::relu"]) == len(third.functions["aten::relu"]) + 1
    kept, made = third.functions["aten::relu"][0], renewed.functions["aten::relu"][0]
    assert first.functions["aten::relu"][0] is kept
    assert made is not kept
    assert ONNXRegistry.from_torchlib.__func__ is plain


@pytest.mark.filterwarnings("ignore")
def test_the_exporter_to_onnx_keeps_no_weights():
    pytest.importorskip("onnxscript")
    net = nn.Linear(64, 64)
    weight = weakref.ref(net.weight)
    torch.onnx.export(net, (torch.ones(2, 64),), dynamo=True, verbose=False)
    del net
    gc.collect()
    assert weight() is not None, "onnxscript forgets by itself: delete forget_onnx_matches"
    forget_onnx_matches()
    gc.collect()
    assert weight() is None
