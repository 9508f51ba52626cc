"""torch_private/modules.py: registers, hooks and wrappers of modules are where the functions look."""

import copy

import torch
from scripted import Scripted
from torch import nn

from pytest_torchexport.torch_private.modules import (
    MODULE_FIELDS,
    compiles_itself,
    hook_registers,
    registered,
    script_attributes,
    uncompiled,
    with_calls_inlined,
)


def test_the_registers_of_hooks_are_those_that_calls_run():
    net, seen = nn.Linear(2, 2), []
    net.register_forward_hook(lambda *_: seen.append("after"))
    net.register_forward_pre_hook(lambda *_: seen.append("before"))
    for register in hook_registers(net):
        for name in register:
            register[name] = lambda *_: seen.append("replaced")
    net(torch.ones(1, 2))
    assert seen == ["replaced", "replaced"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(2, 2)
        self.absent = None
        self.register_module("no_block", None)
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("empty", None)
        self.register_parameter("weight", nn.Parameter(torch.ones(1)))
        self.own = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


def test_the_registers_of_a_module_are_read_with_what_is_none():
    net = Net()
    assert list(registered(net, "buffers")) == ["steps", "empty"]
    assert list(registered(net, "parameters")) == ["weight"]
    assert list(registered(net, "modules")) == ["block", "no_block"]


def test_the_hooks_of_a_module_are_seen():
    net = Net()
    assert not any(hook_registers(net))
    for kind in ("forward", "full_backward"):
        for when in ("", "_pre"):
            getattr(net, f"register_{kind}{when}_hook")(lambda *_: None)
    for kind in ("state_dict", "load_state_dict"):
        for when in ("pre", "post"):
            getattr(net, f"register_{kind}_{when}_hook")(lambda *_: None)
    assert len(list(filter(None, hook_registers(net)))) == 8


def test_no_field_of_a_plain_module_is_taken_for_its_authors():
    left = vars(nn.Linear(2, 2)).keys() - MODULE_FIELDS
    assert left == {"in_features", "out_features"}


def test_a_compiled_module_or_function_gives_back_the_one_that_was_compiled():
    def function(x):
        return x

    net = Net()
    assert uncompiled(torch.compile(net)) is net
    assert uncompiled(net) is net
    assert uncompiled(torch.compile(function)) is function
    assert uncompiled(function) is function
    assert not compiles_itself(net)
    net.compile()
    assert compiles_itself(net)
    assert not compiles_itself(copy.deepcopy(net))


# -- TorchScript -----------------------------------------------------------------------------------


def test_a_script_shows_its_attributes():
    script = torch.jit.script(Scripted())
    assert dict(script_attributes(script))["scale"] == 2.0


def test_calls_are_inlined_in_the_graph_of_a_fork():
    whole = torch.jit.script(Scripted()).inlined_graph  # owns the nodes
    fork = whole.findNode("prim::fork").g("Subgraph")
    graph = with_calls_inlined(fork)
    assert "prim::CallMethod" in str(fork)
    assert "prim::CallMethod" not in str(graph)
    assert "aten::relu" in str(graph)
