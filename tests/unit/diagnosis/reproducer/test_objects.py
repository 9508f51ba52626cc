"""diagnosis/reproducer/objects.py: the written source makes the same module, without its constructor."""

import collections
import enum
import functools

import numpy as np
import pytest
import torch
from torch import nn

from pytest_torchexport.diagnosis.reproducer.importable import Importable
from pytest_torchexport.diagnosis.reproducer.objects import MADE, Objects
from pytest_torchexport.diagnosis.reproducer.values import Arrays, Inexpressible

Pair = collections.namedtuple("Pair", "left right")  # noqa: PYI024


class Color(enum.Enum):
    RED = 1


class Config:
    def __init__(self, owner=None):
        self.width, self.owner = 3, owner


class Part(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(float(width)), requires_grad=width > 2)
        self.register_buffer("seen", torch.ones((), dtype=torch.bfloat16), persistent=False)
        self.register_buffer("none", None)


class Net(nn.Module):
    def __init__(self, *, required):
        super().__init__()
        self.parts = nn.ModuleList([Part(3), Part(2)])
        self.tied = nn.Linear(3, 3)
        self.tied.weight = nn.Parameter(torch.ones(3, 3))
        self.again = nn.Linear(3, 3, bias=False)
        self.again.weight = self.tied.weight
        self.twin = self.tied
        self.listed = [self.tied]
        self.table = torch.arange(6).reshape(2, 3).T
        self.plain = {
            "a": (1, None, float("inf")),
            "b": {1},
            "c": Pair(1, Color.RED),
            "d": torch.Size((2,)),
        }
        self.act, self.half = torch.relu, functools.partial(torch.mul, other=0.5)
        self.config = Config()
        self.same = self.config
        self.bound = self.tied.forward
        self.parts[1].eval()


def again(module, directory):
    """The module that the written source and file make."""
    arrays, names = Arrays("weights"), Importable(directory)
    source = Objects(arrays, names.name).model(module)
    arrays.write(directory)

    def read(name, dtypes={}):  # noqa: B006  # as in the script
        with np.load(directory / name) as file:
            found = {key: torch.from_numpy(file[key]) for key in file}
        return {key: x.view(dtypes.get(key, x.dtype)) for key, x in found.items()}

    scope = {"torch": torch, "read": read, "device": "cpu", "functools": functools, __name__: None}
    for name in {*names.installed, *names.own}:
        scope[name.partition(".")[0]] = __import__(name)
    exec(MADE + source, scope)
    return scope["model"]()


def test_a_module_comes_back_with_all_that_it_holds(tmp_path):
    net = Net(required=1)
    found = again(net, tmp_path)
    assert type(found) is Net
    assert [name for name, _ in found.named_modules()] == [name for name, _ in net.named_modules()]
    state, wanted = found.state_dict(), net.state_dict()
    assert list(state) == list(wanted)
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert found.parts[0].seen.dtype is torch.bfloat16
    assert found.parts[0].none is None
    assert [found.parts[n].weight.requires_grad for n in (0, 1)] == [True, False]
    assert found.again.weight is found.tied.weight
    assert found.twin is found.tied is found.listed[0]
    assert found.bound.__self__ is found.tied
    assert torch.equal(found.table, net.table)
    assert found.table.stride() == net.table.stride()
    assert (found.plain, found.act) == (net.plain, torch.relu)
    assert type(found.plain["c"]) is Pair
    assert found.half(torch.ones(1)) == 0.5
    assert found.config.width == 3
    assert found.same is found.config
    modes = {name: part.training for name, part in net.named_modules()}
    assert {name: part.training for name, part in found.named_modules()} == modes


def test_a_module_without_tensors_comes_back(tmp_path):
    assert not again(nn.Sequential(nn.ReLU()).eval(), tmp_path).training


def test_a_recurrent_network_comes_back(tmp_path):
    net, x = nn.LSTM(3, 4).eval(), torch.ones(2, 3)
    assert torch.equal(again(net, tmp_path)(x)[0], net(x)[0])


def holds(value):
    net = nn.Identity()
    net.held = value
    return net


def in_one_memory():
    net = nn.Identity()
    net.register_buffer("all", torch.arange(4.0))
    net.some = net.all[:2]
    return net


def hooked():
    net = nn.Identity()
    net.register_forward_hook(lambda *_: None)
    return net


def local():
    class Local(nn.Module):
        pass

    return Local()


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (lambda: holds(collections.defaultdict(list)), "defaultdict, which has no source"),
        (lambda: holds(object()), "object, which has no source"),
        (lambda: holds(lambda: 1), "is defined inside"),
        (lambda: holds([nn.ReLU()]), "is a module that is no submodule"),
        (in_one_memory, "some shares memory with another tensor"),
        (hooked, "has hooks"),
        (local, "Local is defined inside local, where no other process can import it"),
        (lambda: torch.fx.symbolic_trace(nn.ReLU()), "is a program"),
    ],
)
def test_what_no_source_can_make_is_refused(module, why, tmp_path):
    with pytest.raises(Inexpressible, match=why):
        again(module(), tmp_path)


def test_an_object_that_holds_itself_is_refused(tmp_path):
    config = Config()
    config.owner = config
    with pytest.raises(Inexpressible):
        again(holds(config), tmp_path)
