"""outcomes/subject.py: the bytes of a module's weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from pytest_torchexport.outcomes.subject import copied_module, weight_of
from pytest_torchexport.torch_private.memory import address_of


def test_memory_that_is_shared_counts_once():
    net = nn.Module()
    net.a = nn.Parameter(torch.ones(10))
    assert weight_of(net) == 40
    net.b = net.a
    net.c = nn.Parameter(net.a.data)
    net.register_buffer("first", net.a.data[:5])
    net.register_buffer("wide", torch.ones(1).expand(100))
    assert weight_of(net) == 40 + 4
    # A part of a larger memory counts as it is.
    net.d = nn.Parameter(torch.ones(1000)[:3])
    assert weight_of(net) == 44 + 12


# -- copies ----------------------------------------------------------------------------------------

X = torch.ones(2, 3)


class Rebuilt(nn.Module):
    """Builds itself anew when it is copied, like the layers of einops."""

    def __getstate__(self):
        return {}

    def __setstate__(self, state):
        super().__init__()

    def forward(self, x):
        return x


class Counting(nn.Module):
    """Counts its calls in a buffer: a call of the original by way of a copy shows there."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.linear(x)


def overridden_by_a_closure():
    net = Counting()
    plain = net.forward
    net.forward = lambda x: plain(x) * 2
    return net


def hooked_by_a_closure():
    net = Counting()
    net.linear.register_forward_hook(lambda _part, _args, output: net.calls.add_(output.numel()))
    return net


def recursive():
    net = Counting()

    def forward(x, depth=2):
        return forward(x, depth - 1) if depth else Counting.forward(net, x)

    net.forward = forward
    return net


def function_in_a_list_of_a_default():
    net = Counting()
    inner = [lambda x: Counting.forward(net, x)]
    net.forward = lambda x, inner=inner: inner[0](x) + 0
    return net


BUILDERS = [
    overridden_by_a_closure,
    function_in_a_list_of_a_default,
    hooked_by_a_closure,
    recursive,
]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_a_call_of_the_copy_changes_the_copy_alone(build):
    net = build()
    copied = copied_module(net)
    torch.testing.assert_close(copied(X), build_like(net, build)(X))
    assert copied.calls > 0
    assert net.calls == 0


@pytest.mark.parametrize("lazily", [False, True])
def test_a_write_to_a_weight_shows_on_its_side_alone_and_in_what_is_tied_to_it(lazily):
    net = nn.Module()
    net.a = nn.Parameter(torch.zeros(4))
    net.tied, net.view = net.a, nn.Parameter(net.a.data[:2])
    net.alone = nn.Parameter(torch.zeros(3), requires_grad=False)
    copied = copied_module(net, lazily=lazily)
    further = copied_module(copied, lazily=lazily)
    with torch.no_grad():
        copied.a += 1
        further.alone.data.fill_(2)
    for module, a, alone in ((net, 0, 0), (copied, 1, 0), (further, 0, 2)):
        assert module.tied is module.a
        assert module.view.tolist() == [a] * 2
        assert module.a.tolist() == [a] * 4
        assert module.alone.tolist() == [alone] * 3
        assert not module.alone.requires_grad


def test_of_a_lent_module_only_memory_that_it_has_alone_is_shared():
    net = nn.Module()
    net.alone, net.seen = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    net.array = nn.Parameter(torch.zeros(4), requires_grad=False)
    net.tied = nn.Parameter(torch.zeros(4))
    net.view = nn.Parameter(net.tied.data[:2])
    held = net.seen.detach(), net.array.numpy()
    copied = copied_module(net, lazily=True, lent=True)
    shared = [
        name
        for name, tensor in net.named_parameters()
        if address_of(tensor) == address_of(copied.get_parameter(name))
    ]
    assert shared == ["alone"]
    assert copied.tied.data_ptr() == copied.view.data_ptr()
    held[0].fill_(1)
    held[1].fill(1)
    assert copied.seen.tolist() == copied.array.tolist() == [0] * 4


def build_like(net, build):
    """Another one of these, with the same weights."""
    other = build()
    other.load_state_dict(net.state_dict())
    return other


def test_other_objects_of_a_closure_are_shared():
    class Trainer:
        pass

    trainer, net = Trainer(), Counting()
    net.forward = lambda x: (trainer, x)
    assert copied_module(net)(X)[0] is trainer
    net.forward = lambda x: x * 2
    assert copied_module(net).forward is net.forward


def test_a_parametrization_removed_from_the_copy_stays_in_the_original():
    net = nn.Sequential(parametrizations.weight_norm(nn.Conv1d(3, 4, 2)), nn.ReLU()).eval()
    x = torch.randn(1, 3, 5)
    expected = net(x)
    copied = copied_module(net)
    torch.testing.assert_close(copied(x), expected)
    parametrize.remove_parametrizations(copied[0], "weight")
    assert not parametrize.is_parametrized(copied[0])
    assert isinstance(copied[0], nn.Conv1d)
    torch.testing.assert_close(net(x), expected)


def test_each_part_of_a_copy_is_in_the_mode_of_its_original():
    net = nn.Sequential(Rebuilt(), nn.Dropout(), Rebuilt(), nn.Linear(3, 3)).eval()
    net[1].train()
    copied = copied_module(net)
    assert [part.training for part in copied] == [False, True, False, False]
