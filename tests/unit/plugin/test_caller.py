"""plugin/caller.py: a function that a test called, and of which only the modules are checked."""

from __future__ import annotations

import functools
import re
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from pytest_torchexport.plugin.caller import CallerKind, is_of_tests
from pytest_torchexport.plugin.capture import CallRecorder

X = torch.arange(6.0).reshape(2, 3)

# Functions of the user's package, not of the tests: each is called with a net and a tensor.
COMPUTES = """
def after(net, x):
    return net(x).softmax(-1)

def named(net, x):
    y = net(x)
    y = y + 1
    return y

def two(net, x):
    return net(net(x))

def loop(net, x):
    for each in (net, net):
        x = each(x)
    return x

def items(net, x):
    return [net(row) for row in x]

def either(net, x):
    if x.sum() > 0:
        return net(x)
    return x

def writes(net, x):
    y = net(x)
    y[0] = 0
    return y

def in_place(net, x):
    y = net(x)
    y.clamp_(0)
    return y

def part(net, x):
    return net(x)[0]

def in_dict(net, batch):
    return {"y": net(batch["x"])}

def own_forward(net, x):
    return Holder(net).forward(x) * 2

def outer(net, x):
    return after(net, x)

shorter = lambda net, x: net(x) * 2

class Pipeline:
    def __init__(self, net):
        self.net = net
    def __call__(self, x):
        return self.net(x).argmax(-1)

class Holder(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
    def forward(self, x):
        return self.net(x)
    def predict(self, x):
        return self(x).argmax(-1)
"""
CALLS = {
    "after": "after",
    "named": "named",
    "two": "two",
    "loop": "loop",
    "items": "items",
    "either": "either",
    "writes": "writes",
    "in_place": "in_place",
    "part": "part",
    "in_dict": "in_dict",
    "own_forward": "own_forward",
    "outer": "after",
    "shorter": "<lambda>",
    "Pipeline": "Pipeline.__call__",
    "Holder": "Holder.predict",
}

HEALTHY = """
def passes_on(net, x):
    net.eval()
    with torch.no_grad():
        return net(x)

def named(net, x):
    y = net(
        x,
    )
    assert y.shape[0] == x.shape[0]
    return y

def optional(net, x):
    if net is None:
        return None
    y = net(x)
    return y

def outer(net, x):
    return named(net, x)

def trains(net, x):
    loss = net(x).sum()
    loss.backward()
    return loss

def returns_nothing(net, x):
    for _ in range(2):
        net(x).sum()

def warms_up(net, x):
    net(x)
    return x

def makes_inputs(net, rows):
    x = torch.zeros(rows, 3)
    return net(x) + 1

shorter = lambda net, x: net(x)
"""


def module(source, folder):
    path = folder / "net.py"
    path.write_text(source)
    return runpy.run_path(str(path), {"torch": torch})


def recorded(body, of_tests=lambda path: not path.endswith("net.py")):
    with CallRecorder(of_tests) as recorder:
        body()
    return recorder.recordings


def called(function, net, x=X):
    if isinstance(function, type):
        made = function(net)
        return getattr(made, "predict", made)(x)
    return function(net, x)


@pytest.mark.parametrize("name", CALLS)
def test_a_function_that_computes_with_what_a_module_returns_is_named(name, tmp_path):
    function = module(COMPUTES, tmp_path)[name]
    net = nn.Linear(3, 3, bias=False).requires_grad_(False)
    found = recorded(lambda: called(function, net, {"x": X} if name == "in_dict" else X))
    callers = {each.caller for each in found} - {None}
    assert [caller.name for caller in callers] == [CALLS[name]]
    kind = CallerKind.METHOD if name == "Holder" else CallerKind.FUNCTION
    assert [caller.kind for caller in callers] == [kind]
    assert all("net.py:" in caller.place for caller in callers)


@pytest.mark.parametrize("name", ["after", "two", "own_forward", "Pipeline", "Holder"])
def test_a_helper_of_the_tests_is_not(name, tmp_path):
    function = module(COMPUTES, tmp_path)[name]
    found = recorded(lambda: called(function, nn.Linear(3, 3)), of_tests=lambda _: True)
    assert {each.caller for each in found} == {None}


@pytest.mark.parametrize("name", re.findall(r"^(?:def )?(\w+)", HEALTHY, re.MULTILINE))
def test_a_function_that_passes_a_result_on_or_that_does_not_ship_is_not(name, tmp_path):
    function = module(HEALTHY, tmp_path)[name]
    given = 2 if name == "makes_inputs" else X
    found = recorded(lambda: called(function, nn.Linear(3, 3), given))
    assert {each.caller for each in found} == {None}


ROOT = Path("/home/me/tests/project")


@pytest.mark.parametrize(
    ("path", "of_tests"),
    [
        ("net.py", False),
        ("src/package/contest.py", False),
        ("src/package/latest/net.py", False),
        ("check_net.py", True),
        ("tests/helpers.py", True),
        ("package/test/common.py", True),
        ("package/testing/asserts.py", True),
        ("package/conftest.py", True),
        ("package/test_net.py", True),
        ("package/net_test.py", True),
    ],
)
def test_files_of_tests_are_known_by_their_names_and_folders(path, of_tests):
    assert is_of_tests(str(ROOT / path), test=ROOT / "check_net.py", root=ROOT) is of_tests


def test_a_file_outside_the_root_is_told_by_its_own_folders():
    known = {"test": ROOT / "test_net.py", "root": ROOT}
    assert not is_of_tests("/home/me/other/net.py", **known)
    assert is_of_tests("/home/me/other/tests/net.py", **known)


def scaled(net, scale, x):
    return net.part(x) * scale


class Parted(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.Linear(3, 3)


class ByPartialMethod(Parted):
    forward = functools.partialmethod(scaled, 2.0)


class ByPartial(Parted):
    def __init__(self):
        super().__init__()
        self.forward = functools.partial(scaled, self, 2.0)


class ByClosure(Parted):
    def __init__(self):
        super().__init__()
        self.forward = lambda x: self.part(x) * 2.0


@pytest.mark.parametrize("cls", [ByPartialMethod, ByPartial, ByClosure])
def test_a_forward_that_hides_its_module_is_named_and_a_call_of_its_module_is_not(cls):
    (recording,) = recorded(lambda: cls().forward(X), of_tests=lambda _: True)
    assert type(recording.module) is nn.Linear
    assert recording.caller.name == f"{cls.__name__}.forward"
    assert recording.caller.kind is CallerKind.FORWARD
    (recording,) = recorded(lambda: cls()(X), of_tests=lambda _: True)
    assert type(recording.module) is cls
    assert recording.caller is None
