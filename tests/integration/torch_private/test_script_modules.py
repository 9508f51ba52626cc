"""torch_private/script_modules.py: attributes, methods, code and graphs of ScriptModules are read.

A test that fails here means that torch has changed: the docstring of the room says what to do.
"""

import torch
from scripted import Scripted
from torch import nn

from pytest_torchexport.torch_private.script_modules import (
    is_tensor_type,
    script_attribute,
    script_attributes,
    script_code,
    script_methods,
    with_calls_inlined,
)


def test_a_script_shows_its_attributes_methods_and_code():
    script = torch.jit.script(Scripted())
    assert dict(script_attributes(script))["scale"] == 2.0
    assert script_attribute(script, "scale") == 2.0
    assert {name for name, _ in script_methods(script)} == {"forward", "scaled"}
    assert "scale : float" in script_code(script)


def test_a_module_of_eager_is_no_script():
    assert list(script_methods(nn.Linear(2, 2))) == []
    assert script_code(nn.Linear(2, 2)) == ""


def test_calls_are_inlined_in_the_graph_of_a_fork():
    whole = torch.jit.script(Scripted()).inlined_graph  # owns the nodes
    fork = whole.findNode("prim::fork").g("Subgraph")
    graph = with_calls_inlined(fork)
    assert "prim::CallMethod" in str(fork)
    assert "prim::CallMethod" not in str(graph)
    assert "aten::relu" in str(graph)


def test_a_tensors_type_is_told_from_a_numbers():
    graph = torch.jit.trace(lambda x: x + 1, torch.ones(2, 3), check_trace=False).graph
    (x,) = graph.inputs()
    number = graph.insertConstant(3)
    assert is_tensor_type(x.type())
    assert x.type().dim() == 2
    assert not is_tensor_type(number.type())
