"""plugin/direct_forward.py: a test body that calls ``net.forward(x)`` has called ``net``."""

from __future__ import annotations

import functools
import threading

import pytest
import torch
from torch import nn

from pytest_torchexport.plugin.capture import UNKNOWN_ARGUMENTS, CallRecorder

X = torch.arange(6.0).reshape(2, 3)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.others = nn.ModuleList([nn.Linear(3, 3), nn.ReLU()])


class Plain(Base):
    def forward(self, x):
        x = self.linear(x)
        for other in self.others:
            x = other(x)
        return x


class Looping(Base):
    def forward(self, x):
        for other in self.others:
            x = other(x)
        return x


class Super(Plain):
    def forward(self, x):
        return super().forward(x) + 1


class Decorated(Base):
    @torch.no_grad()
    def forward(self, x):
        return self.linear(x)


class Wrapped(Base):
    def forward(self, x):
        return self.linear(x)

    @functools.wraps(forward)
    def forward(self, x, inner=forward):
        return inner(self, x)


class InPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Plain()

    def forward(self, x):
        return self.part.forward(x) * 2


class Keywords(Base):
    def forward(self, x, /, y, *more, scale=1.0, bias=None, **rest):
        return self.linear(x + y + sum(more) + sum(rest.values())) * scale

    def predict(self, x):
        return self.forward(x, x)


class Assigns(Base):
    def forward(self, x, y=0.0):
        x = x.flatten(1)
        return self.linear(x) + y


class Deletes(Base):
    def forward(self, x):
        kept = x.flatten(1)
        del x
        return self.linear(kept)


class Closes(Base):
    def forward(self, x):
        x = x * 2
        return self.linear(x) + sum(x for _ in self.others)


class Pops(Base):
    def forward(self, x):
        return self.linear(x.pop("x")) if isinstance(x, dict) else self.linear(x)


class WritesItem(Base):
    def forward(self, x):
        x[:] = x * 2
        return self.linear(x)


class InPlace(Base):
    def forward(self, x):
        x.clamp_(0)
        return self.linear(x)


class SecondRound(Base):
    def forward(self, x):
        for number in range(2):
            if number:
                return self.linear(x)
            x = x * 2
        return x


class Nonlocal(Base):
    def forward(self, x):
        def double():
            nonlocal x
            x = x * 2

        double()
        return self.linear(x)


class Alias(Base):
    def run(self, x):
        return self.linear(x)

    forward = run


class InLoop(Base):
    def forward(self, x):
        for other in self.others:
            x = other(x)
            if x.sum() > 1e9:
                break
        return x


class WrapsItself(Base):
    def forward(self, x):
        return self.linear(x)


WrapsItself.forward.__wrapped__ = WrapsItself.forward


class Features(Plain):
    """Its forward takes other arguments than its base class's, which another method calls."""

    def forward(self, image, text):
        return super().forward(image) + text

    def features(self, x):
        return super().forward(x)


class Raises(Base):
    def forward(self, x):
        x = self.linear(x)
        if x.shape[0] > 1:
            raise ValueError("only one")
        return x


def recorded(body):
    with CallRecorder() as recorder:
        body()
    return recorder.recordings


@pytest.mark.parametrize(
    "cls", [Plain, Looping, Super, Decorated, InPart, Alias, InLoop], ids=lambda cls: cls.__name__
)
def test_the_module_is_recorded_and_not_its_layers(cls):
    net = cls()
    (recording,) = recorded(lambda: (net.forward(X), net.forward(X[:1]), net(X[:, :])))
    assert type(recording.module) is cls
    shapes = [call.args[0].shape for call in recording.calls]
    assert sorted(shapes) == [X[:1].shape, X.shape, X.shape]
    torch.testing.assert_close(recording.calls[0].args[0], X)
    assert recording.problem is None


def test_arguments_are_those_of_the_signature():
    net = Keywords()
    (recording,) = recorded(lambda: net.forward(X, X + 1, X + 2, scale=2.0, z=X + 3))
    call = recording.calls[0]
    assert [tensor[0, 0].item() for tensor in call.args] == [0, 1, 2]
    assert call.kwargs["scale"] == 2.0
    assert call.kwargs["z"][0, 0].item() == 3
    assert list(call.kwargs) in (["scale", "z"], ["z", "scale"])
    torch.testing.assert_close(
        recording.module(*call.args, **call.kwargs), net(*call.args, **call.kwargs)
    )


def test_defaults_are_left_out():
    (recording,) = recorded(lambda: Keywords().forward(X, X))
    assert len(recording.calls[0].args) == 2
    assert recording.calls[0].kwargs == {}


def test_a_forward_that_another_method_calls_is_recorded():
    (recording,) = recorded(lambda: Keywords().predict(X))
    assert type(recording.module) is Keywords
    assert len(recording.calls[0].args) == 2


@pytest.mark.parametrize(
    "cls",
    [Assigns, Deletes, Closes, Wrapped, Pops, WritesItem, InPlace, SecondRound, Nonlocal],
    ids=lambda cls: cls.__name__,
)
def test_arguments_that_forward_has_assigned_are_not_guessed(cls):
    (recording,) = recorded(lambda: cls().forward(X))
    assert str(recording.problem) == UNKNOWN_ARGUMENTS
    assert recording.calls == []


def test_a_call_that_raised_is_left_out():
    def body():
        net = Raises()
        with pytest.raises(ValueError, match="only one"):
            net.forward(X)
        net.forward(X[:1])

    (recording,) = recorded(body)
    assert [call.args[0].shape for call in recording.calls] == [X[:1].shape]


def test_threads_are_told_apart():
    net, other = Plain(), Looping()

    def body():
        thread = threading.Thread(target=other.forward, args=(X,))
        thread.start()
        net.forward(X)
        thread.join()

    assert sorted(type(item.module).__name__ for item in recorded(body)) == ["Looping", "Plain"]


def test_a_function_of_that_name_is_no_forward_of_a_module():
    def forward(net, x):
        return net(x)

    (recording,) = recorded(lambda: forward(Plain(), X))
    assert type(recording.module) is Plain
    (recording,) = recorded(lambda: forward(nn.Linear(3, 2), X))
    assert type(recording.module) is nn.Linear


class Encodes(Base):
    def encode(self, x):
        return -self.linear(x) if x.mean() > 0 else self.linear(x)

    def twice(self, x):
        return self(self(x))

    def forward(self, x):
        return self.linear(x)


def test_a_layer_that_another_method_calls_is_recorded_with_that_method():
    (recording,) = recorded(lambda: Encodes().encode(X))
    assert type(recording.module) is nn.Linear
    assert recording.caller.name == "Encodes.encode"
    assert "test_direct_forward.py:" in recording.caller.place


class Sized(nn.Module):
    """Counts the features of its first layer by a call of it."""

    def __init__(self, features):
        super().__init__()
        self.layer = nn.Linear(features, 4)
        self.head = nn.Linear(self.layer(torch.zeros(1, features)).shape[1], 2)

    def forward(self, x):
        return self.head(self.layer(x))


BODIES = {
    "a method that calls the module": lambda: Encodes().twice(X),
    "the module": lambda: Encodes()(X),
    "its forward": lambda: Encodes().forward(X),
    "a layer": lambda: nn.Linear(3, 2)(X),
    "a module that calls a layer when it is made": lambda: Sized(3)(X),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_the_test_called_itself_is_inside_nothing(name):
    assert [recording.caller for recording in recorded(BODIES[name])] in ([None], [None, None])


def test_the_forward_of_a_base_class_is_not_that_of_the_module():
    found = recorded(lambda: Features().features(X))
    assert {type(each.module) for each in found} <= {nn.Linear, nn.ReLU}
    assert {each.caller.name for each in found} == {"Features.features"}


def test_decorators_that_lead_to_themselves_raise_nothing_in_the_test():
    assert [type(each.module) for each in recorded(lambda: WrapsItself().forward(X))] == [nn.Linear]
