"""eager/preflight.py: what there is to say about eager before anything is exported.

For each mechanism modules that have it, and look-alikes that do not.
"""

# ruff: noqa: ARG005, C416, NPY002, PLC0208, PLW0603  # the habits that are judged here

from __future__ import annotations

import copy
import errno
import functools
import itertools
import os
import random
import sys
import time
import uuid
from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from preflights import Healthy, findings, silent
from torch import nn

from pytest_torchexport.eager.fingerprint import MAX_NODES
from pytest_torchexport.eager.preflight import _Found, changed, examine, fingerprint
from pytest_torchexport.eager.reference import _sentences
from pytest_torchexport.eager.state_ref import Change, StateRef
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.cuda import ContextLost
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.failures import Ineffective

X = torch.linspace(-1, 1, 12).reshape(1, 3, 4)


class Inner(nn.Module):
    """A model whose part ``block`` does what a test says."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x) + 1


def module(forward, **attributes):
    """A module of this forward (a plain function of self and x), with these attributes."""
    cls = type("Made", (nn.Module,), {"forward": forward, "__module__": __name__})
    made = cls()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


# -- nothing to say --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "healthy",
    [
        Healthy,
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.ReLU()),
        lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        lambda: Inner(nn.BatchNorm1d(3)),
    ],
)
def test_there_is_nothing_to_say_about_healthy_modules(healthy):
    assert silent(findings(healthy(), X))


def test_there_is_nothing_to_say_about_an_lstm():
    assert silent(findings(nn.LSTM(4, 5, batch_first=True), X))


def test_there_is_nothing_to_say_about_a_function_a_partial_and_a_bound_method():
    net = Healthy().eval()
    assert silent(findings(torch.sin, X))
    assert silent(findings(functools.partial(torch.add, alpha=2), X, X))
    assert silent(findings(net.forward, X))


# -- random: torch ---------------------------------------------------------------------------------


def test_dropout_without_the_training_flag_is_told_with_its_line():
    block = module(lambda self, x: F.dropout(x, 0.5))
    (told,) = findings(Inner(block), X).random
    assert told.startswith(
        "dropout is active in eval mode (pass training=self.training) in block, "
    )
    assert told.endswith("block = module(lambda self, x: F.dropout(x, 0.5))")


def test_torch_dropout_called_with_true_is_told():
    (told,) = findings(module(lambda self, x: torch.dropout(x, 0.5, True)), X).random
    assert told.startswith("dropout is active in eval mode")


def test_a_dropout_that_was_left_in_training_mode_is_told():
    net = Healthy().eval()
    net.drop.train()
    found = examine(Subject.of(net), Call((X,)), 0)
    (told,) = found.random
    assert told.startswith("drop (Dropout, left in training mode) drops at random, ")
    assert "self.drop(F.relu(" in told
    assert found.training == ("drop (Dropout) is still in training mode",)


def test_dropout_in_a_module_that_is_meant_to_train_is_told_without_advice():
    (told,) = findings(nn.Sequential(nn.Dropout()), X, mode="train").random
    assert told == "0 (Dropout) drops at random"


@pytest.mark.parametrize(
    ("forward", "name"),
    [
        (lambda self, x: x + torch.rand(4), "torch.rand, "),
        (lambda self, x: x + torch.randn_like(x), "torch.randn_like, "),
        (lambda self, x: x[:, torch.randperm(3)], "torch.randperm, "),
        (lambda self, x: F.gumbel_softmax(x), "torch.exponential_, "),
        (lambda self, x: torch.bernoulli(x.sigmoid()), "torch.bernoulli, "),
    ],
)
def test_what_draws_from_torch_is_told(forward, name):
    found = findings(module(forward), X)
    (told,) = found.random
    assert told.startswith(name)
    assert "test_preflight.py:" in told
    assert found.unrepeatable is None


@pytest.mark.parametrize(
    "healthy",
    [
        lambda self, x: F.dropout(x, training=self.training),
        lambda self, x: F.scaled_dot_product_attention(x, x, x),
        lambda self, x: F.rrelu(x, training=self.training),
        lambda self, x: self.noise * x,
    ],
)
def test_what_could_draw_and_does_not_is_not_told(healthy):
    assert findings(module(healthy, noise=torch.rand(4)), X).random == ()


# -- random: Python and numpy ----------------------------------------------------------------------


def by_python(self, x):
    y = x * 2
    y = y * random.random()  # here
    return y - 1


def by_choice(self, x):
    return x * helper()


def helper():
    return random.choice([1.0, 2.0, 3.0])  # here


def by_numpy(self, x):
    noise = np.random.rand()  # here
    return x * noise


def by_numpy_normal(self, x):
    z = x + 1
    return z + torch.from_numpy(np.random.normal(size=4)).float()  # here


@pytest.mark.parametrize(
    ("forward", "stream"),
    [
        (by_python, "Python's random"),
        (by_choice, "Python's random"),
        (by_numpy, "numpy.random"),
        (by_numpy_normal, "numpy.random"),
    ],
)
def test_draws_outside_torch_are_told_with_their_line(forward, stream):
    found = findings(Inner(module(forward)), X)
    (told,) = found.random
    assert told.startswith(stream)
    assert told.endswith("# here")
    assert found.unrepeatable is None


@pytest.mark.parametrize(
    "healthy",
    [
        lambda self, x: x * random.Random(3).random(),
        lambda self, x: x * float(np.random.default_rng(3).random()),
        lambda self, x: x * float(np.sqrt(2.0)),
    ],
)
def test_streams_of_their_own_with_a_seed_are_healthy(healthy):
    assert silent(findings(module(healthy), X))


def test_a_tracer_and_a_profiler_that_were_there_are_there_again():
    def tracer(frame, event, argument):
        return None

    def profiler(frame, event, argument):
        return None

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(tracer)
    sys.setprofile(profiler)
    try:
        findings(module(by_python), X)
        findings(module(by_clock), X)
        after = sys.gettrace(), sys.getprofile()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    assert after == (tracer, profiler)


# -- unrepeatable ----------------------------------------------------------------------------------


def by_clock(self, x):
    y = x + 1
    y = y * (time.time() % 1)  # here
    return y - 1


calls = itertools.count()
counter = 0


def by_counter(self, x):
    global counter
    counter += 1
    return x.sin() * counter  # here


def by_iterator(self, x):
    return x.sin() + next(calls)  # here


def by_system(self, x):
    return x * os.urandom(1)[0]  # here


def by_uuid(self, x):
    return x + uuid.uuid4().int % 100_003  # here


def by_address(self, x):
    return x * (id(self) % 100_003)  # here


def by_own_stream(self, x):
    return x * random.Random().random()  # here


def by_generator(self, x):
    generator = torch.Generator()
    generator.seed()
    return x * torch.rand(1, generator=generator)  # here


@pytest.mark.parametrize(
    "forward",
    [
        by_clock,
        by_counter,
        by_iterator,
        by_system,
        by_uuid,
        by_address,
        by_own_stream,
        by_generator,
    ],
)
def test_what_does_not_repeat_itself_is_told_with_the_first_line_that_differs(forward):
    found = findings(Inner(module(forward)), X)
    assert found.unrepeatable.startswith(
        "two calls on equal inputs, from equal state and seed, differ"
    )
    assert " in block" in found.unrepeatable
    assert found.where.text.endswith("# here")
    assert found.warm_up is None


def test_a_counter_that_copies_share_is_named():
    assert "forward changes global counter" in findings(module(by_counter), X).unrepeatable


class CountingClass(nn.Module):
    runs = 0

    def forward(self, x):
        CountingClass.runs += 1
        return x.sin() * CountingClass.runs


def test_an_attribute_of_the_class_that_copies_share_is_named():
    found = findings(CountingClass(), X)
    assert "class attribute CountingClass.runs" in found.unrepeatable


@pytest.mark.parametrize(
    "healthy",
    [
        lambda self, x: x + torch.rand(4),
        lambda self, x: x * random.random(),
        lambda self, x: (time.time(), x * 2)[1],
        lambda self, x: x * (0.0 if id(self) else 1.0),
    ],
)
def test_what_repeats_itself_under_one_seed_is_repeatable(healthy):
    found = findings(module(healthy), X)
    assert found.unrepeatable is None
    assert found.where is None


def test_state_of_its_own_is_repeatable():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = 0

        def forward(self, x):
            self.steps += 1
            return x * self.steps

    found = findings(Stateful(), X)
    assert found.unrepeatable is None
    assert found.warm_up is None
    assert tuple(map(str, found.changed)) == ("attribute steps",)


# -- uninitialized memory --------------------------------------------------------------------------


def half_written(self, x):
    out = torch.empty(2, 4)  # here
    out[0] = x[0, 0]
    return out


def accumulated(self, x):
    out = torch.zeros(4)
    state = x.new_empty(4)  # here
    return out + state * 0 + x


def compared(self, x):
    return torch.where(torch.empty_like(x) > 0, x, -x)  # here


def grown(self, x):
    return x.clone().resize_(20)  # here


@pytest.mark.parametrize("forward", [half_written, accumulated, compared, grown])
def test_an_output_that_depends_on_uninitialized_memory_is_told_with_its_line(forward):
    found = findings(Inner(module(forward)), X)
    assert found.unrepeatable.startswith("the output depends on memory that torch.")
    assert found.unrepeatable.endswith("left uninitialized in block")
    assert found.where.text.endswith("# here")
    (told,) = found.uninitialized
    assert told.startswith("torch.") and "is never initialized in block, " in told  # noqa: PT018


def test_of_several_such_lines_the_guilty_one_is_told():
    def forward(self, x):
        fine = torch.empty(4).copy_(x[0, 0])
        bad = torch.empty(4)  # here
        return fine + bad

    found = findings(module(forward), X)
    assert found.where.text.endswith("# here")
    assert len(found.uninitialized) == 1


def test_memory_that_is_written_before_it_is_read_is_not_blamed_for_a_clock():
    def forward(self, x):
        y = torch.empty_like(x).copy_(x)
        return y * (time.time() % 1)  # here

    found = findings(module(forward), X)
    assert found.uninitialized == ()
    assert found.where.text.endswith("# here")


def copied_into(self, x):
    return torch.empty_like(x).copy_(x)


def unused_bias(self, x):
    return torch.baddbmm(torch.empty(1, 3, 3), x, x.transpose(1, 2), beta=0)


def read_where_written(self, x):
    out = torch.empty(10, 4)
    out[:3] = x[0]
    return out[:3] * 2


def empty_cache(self, x):
    return torch.cat([torch.empty(1, 0, 4), x], 1)


@pytest.mark.parametrize(
    "healthy",
    [copied_into, unused_bias, read_where_written, empty_cache, lambda s, x: F.dropout(x)],
)
def test_memory_that_is_written_before_it_is_read_is_healthy(healthy):
    assert silent(findings(module(healthy), X), "random")


# -- writes into inputs ----------------------------------------------------------------------------


def relu_in_place(self, x):
    return x.relu_() + 1  # here


def masked_rows(self, x):
    x[:, 0] = 0  # here
    return x * 2


def through_a_view(self, x):
    x.view(-1)[:2].add_(1)  # here
    return x.sum()


def equal_numbers(self, x):
    return x.clamp_(-9, 9) * 2  # here


@pytest.mark.parametrize("forward", [relu_in_place, masked_rows, through_a_view, equal_numbers])
def test_writes_into_an_input_are_told_with_its_name_and_line(forward):
    found = findings(Inner(module(forward)), X.clone())
    assert found.written == ("x",)
    (told,) = found.writes_inputs
    assert told.startswith("writes to x in block, ")
    assert told.endswith("# here")


def test_inputs_in_containers_and_keywords_are_named_as_a_user_writes_them():
    class Net(nn.Module):
        def forward(self, state, *rest, mask=None):
            state[0]["h"].zero_()
            rest[1].add_(1)
            mask.logical_not_()
            return state[0]["h"] + rest[0]

    found = findings(
        Net(),
        [{"h": torch.ones(2)}],
        torch.ones(2),
        torch.ones(2),
        mask=torch.ones(2, dtype=torch.bool),
    )
    assert found.written == ("state[0]['h']", "rest[1]", "mask")


def test_names_that_are_given_are_used():
    found = examine(
        Subject.of(lambda *a: a[0].add_(1) * 2), Call((torch.ones(1),)), 0, names=["image"]
    )
    assert found.written == ("image",)


@pytest.mark.parametrize(
    "healthy",
    [
        lambda self, x: x.clone().relu_(),
        lambda self, x: F.relu(x + 1, inplace=True),
        lambda self, x: x.detach_() * 2,
        lambda self, x: torch.cat([x, x]).zero_(),
    ],
)
def test_writes_into_what_the_forward_made_are_healthy(healthy):
    assert findings(module(healthy), X.clone()).writes_inputs == ()


# -- changes ---------------------------------------------------------------------------------------


class Changing(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.register_buffer("steps", torch.zeros(1))
        self.weight = nn.Parameter(torch.ones(4))
        self.count = 0
        self.mode = "idle"
        self.history = []
        self.cache = {}
        self.nested = {"deep": [1, {"x": 0}]}
        self.seen = set()
        self.config = Config()
        self.array = np.zeros(2)
        self.ticks = itertools.count()
        self.drop = nn.Dropout()
        self.change = change

    def forward(self, x):
        self.change(self)
        return x + 1


class State:
    def __init__(self):
        self.value = 0


@dataclass
class Config:
    limit: int = 3
    state: State = None

    def __post_init__(self):
        self.state = self.state or State()


def bump(self):
    self.steps += 1  # here


def decay(self):
    self.weight.data.mul_(0.9)  # here


def rebind(self):
    self.steps = self.steps + 1  # here


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (bump, "buffer steps"),
        (decay, "parameter weight"),
        (rebind, "buffer steps"),
        (lambda s: setattr(s, "count", s.count + 1), "attribute count"),
        (lambda s: setattr(s, "mode", "ran"), "attribute mode"),
        (lambda s: s.history.append(1), "attribute history"),
        (lambda s: s.cache.update(k=torch.ones(1)), "attribute cache"),
        (lambda s: s.nested["deep"][1].update(x=1), "attribute nested['deep'][1]['x']"),
        (lambda s: s.seen.add("a"), "attribute seen"),
        (lambda s: setattr(s.config.state, "value", 1), "attribute config.state.value"),
        (lambda s: setattr(s, "made", torch.ones(1)), "attribute made (new)"),
        (lambda s: vars(s).pop("mode", None), "attribute mode (gone)"),
        (lambda s: s.array.__setitem__(0, 1), "attribute array"),
        (lambda s: next(s.ticks), "attribute ticks"),
        (lambda s: s.drop.train(), "training flag of drop"),
        (lambda s: s.drop.register_forward_hook(print), "hooks of drop"),
        (lambda s: s.add_module("extra", nn.ReLU()), "submodules"),
        (lambda s: s.weight.requires_grad_(False), "parameter weight"),
        (lambda s: s.register_buffer("late", torch.ones(1)), "buffer late (new)"),
    ],
)
def test_whatever_forward_changes_is_named(change, name):
    found = findings(Changing(change), X)
    assert name in map(str, found.changed)
    assert any(told.startswith(name) for told in found.changes)
    assert tuple(map(str, found.changed)) == (name,) or name == "submodules"


@pytest.mark.parametrize("change", [bump, decay])
def test_a_write_that_was_seen_is_told_with_its_line(change):
    found = findings(Changing(change), X)
    (told,) = found.changes
    assert told.endswith("# here")
    assert [str(line) in told for line in found.written_at.values()] == [True]


def test_a_counter_in_python_is_told_with_the_only_line_that_stores_it():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = 0

        def forward(self, x):
            self.steps += 1  # here
            return x

    (told,) = findings(Inner(Counting()), X).changes
    assert told.startswith("attribute block.steps, ")
    assert told.endswith("self.steps += 1  # here")


def test_an_attribute_of_an_object_is_told_with_its_line():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = Config()

        def forward(self, x):
            self.config.state.value += 1  # here
            return x + 1

    (told,) = findings(Inner(Net()), X).changes
    assert told.startswith("attribute block.config.state.value, ")
    assert told.endswith("# here")


def test_running_statistics_that_a_native_kernel_writes_are_named():
    found = findings(Inner(nn.BatchNorm1d(3)), X, mode="train")
    assert tuple(map(str, found.changed)) == (
        "buffer block.running_mean",
        "buffer block.running_var",
        "buffer block.num_batches_tracked",
    )
    assert "return self.block(x) + 1" in found.changes[0]


def test_a_closure_and_a_mutable_default_of_a_function_are_named():
    seen = []

    def closing(x):
        seen.append(1)
        return x + 1

    def defaulting(x, cache={}):  # noqa: B006
        cache[len(cache)] = 1
        return x + 1

    assert findings(closing, X).changed == (Change(StateRef("closure", "seen")),)
    assert tuple(map(str, findings(defaulting, X).changed)) == ("default[0] of defaulting",)


@pytest.mark.parametrize(
    "healthy",
    [
        lambda s: s.history[:],
        lambda s: setattr(s, "count", 0),
        lambda s: {**s.cache, "k": 1},
        lambda s: s.steps + 1,
        lambda s: setattr(s, "count", 1) or setattr(s, "count", 0),
        lambda s: s.config.state.value + 1,
    ],
)
def test_what_is_only_read_or_put_back_is_no_change(healthy):
    assert silent(findings(Changing(healthy), X))


# -- fingerprints ----------------------------------------------------------------------------------


def test_a_fingerprint_of_an_untouched_module_does_not_change():
    for net in (Healthy(), nn.LSTM(3, 4), nn.TransformerEncoderLayer(4, 2, 8), Changing(bump)):
        before = fingerprint(net)
        net.state_dict()
        assert changed(before, fingerprint(net)) == ()


def test_numbers_that_are_no_numbers_and_cycles_are_no_change():
    net = Healthy()
    net.limit = float("nan")
    net.loop = [1]
    net.loop.append(net.loop)
    net.parent = [net]
    assert changed(fingerprint(net), fingerprint(net)) == ()


def test_a_bool_in_place_of_an_equal_number_is_a_change():
    net = Healthy()
    net.flag = 1
    before = fingerprint(net)
    net.flag = True
    assert tuple(map(str, changed(before, fingerprint(net)))) == ("attribute flag",)


def test_no_code_of_the_users_runs():
    class Odd(nn.Module):
        @property
        def dangerous(self):
            raise AssertionError("a property was read")

        def __getattr__(self, name):
            if name in ("_parameters", "_buffers", "_modules"):
                return super().__getattr__(name)
            raise (AttributeError if name.startswith("__") else RuntimeError)(name)

        def forward(self, x):
            return x + 1

    net = Odd()
    net.holder = type("Holder", (), {"value": property(lambda self: 1 / 0)})()
    assert changed(fingerprint(net), fingerprint(net)) == ()
    assert silent(findings(net, X))


def raises(*_):
    raise AssertionError("a container's own method was called")


@pytest.mark.parametrize("base", [tuple, list, deque])
def test_a_sequence_that_refuses_to_be_counted_is_read_as_what_it_is(base):
    refusing = type("Refusing", (base,), {"__len__": raises, "__iter__": raises})
    net = Healthy()
    net.held = refusing([1, net])
    before = fingerprint(net)
    assert changed(before, fingerprint(net)) == ()
    net.held = refusing([2, net])
    assert tuple(map(str, changed(before, fingerprint(net)))) == ("attribute held[0]",)


def test_a_walk_ends():
    net = Healthy()
    net.table = {i: [i] * 50 for i in range(2000)}
    assert len(fingerprint(net)) <= MAX_NODES + 100


def test_machinery_is_not_walked_into():
    import logging
    import threading

    net = module(lambda self, x: x, log=logging.getLogger("x"), lock=threading.Thread())
    assert len(fingerprint(net)) < 10


# -- aliases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (lambda self, x: x, "output shares memory with x"),
        (lambda self, x: {"v": x.transpose(0, 1)}, "output['v'] shares memory with x"),
        (lambda self, x: (x + 1, self.weight), "output[1] shares memory with parameter weight"),
        (lambda self, x: self.held[:1], "output shares memory with attribute held"),
    ],
)
def test_outputs_that_share_memory_are_told(forward, told):
    found = findings(module(forward, weight=nn.Parameter(torch.ones(2)), held=torch.ones(2)), X)
    assert found.aliases == (told,)


@pytest.mark.parametrize(
    "healthy",
    [
        lambda self, x: x.clone(),
        lambda self, x: (x + 0)[0],
        lambda self, x: torch.empty(0),
        lambda self, x: x.sum().item(),
    ],
)
def test_outputs_of_their_own_are_healthy(healthy):
    assert findings(module(healthy), X).aliases == ()


# -- warm-up ---------------------------------------------------------------------------------------


class FirstOther(nn.Module):
    def __init__(self):
        super().__init__()
        self.ready = False

    def forward(self, x):
        if not self.ready:
            self.ready = True
            return x * 2
        return x * 3


class CachesFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3, 4))

    def forward(self, x):
        out = x + self.seen
        self.seen.copy_(x[0])
        return out


class Initializes(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = {}

    def forward(self, x):
        out = x + self.bias.get("b", 0.0)
        self.bias["b"] = 1.0
        return out


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (FirstOther, "attribute ready"),
        (CachesFirst, "buffer seen"),
        (Initializes, "attribute bias"),
    ],
)
def test_a_first_call_that_differs_is_told_with_what_it_changed(cls, name):
    found = findings(cls(), X)
    assert found.warm_up == f"the first call differs from the later ones: it changed {name}"
    assert found.unrepeatable is None


class CachesMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.mask = None

    def forward(self, x):
        if self.mask is None:
            self.mask = torch.tril(torch.ones(3, 4))
        return x * self.mask


class Accumulates(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x):
        self.total += 1
        return x + self.total


@pytest.mark.parametrize("cls", [CachesMask, Accumulates, Healthy])
def test_a_cache_that_gives_the_same_and_a_steady_change_are_no_warm_up(cls):
    assert findings(cls(), X).warm_up is None


# -- training mode and registers -------------------------------------------------------------------


class Stubborn(nn.Dropout):
    def train(self, mode=True):
        return super().train(True)


class InList(nn.Module):
    def __init__(self, *parts, hold=list):
        super().__init__()
        self.parts = hold(parts)

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x


def as_dict(parts):
    return {str(i): part for i, part in enumerate(parts)}


class InDict(InList):
    def __init__(self, *parts):
        super().__init__(*parts, hold=as_dict)

    def forward(self, x):
        return self.parts["0"](x)


class Averaged(nn.Module):
    """Beside the net, a copy of it in training mode, which does not run."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.copies = [copy.deepcopy(net)]

    def forward(self, x):
        return self.net(x)


class Holder:
    def __init__(self, parts):
        self.net = parts[0]


class InObject(InList):
    def __init__(self, *parts):
        super().__init__(*parts, hold=Holder)

    def forward(self, x):
        return self.parts.net(x)


@pytest.mark.parametrize(
    ("net", "path"),
    [
        (Inner(Stubborn()), "block (Stubborn)"),
        (InList(nn.Dropout()), "parts[0] (Dropout)"),
        (InDict(nn.BatchNorm1d(3)), "parts['0'] (BatchNorm1d)"),
        (InObject(nn.Sequential(nn.Linear(4, 4), nn.Dropout())), "parts.net.1 (Dropout)"),
    ],
)
def test_parts_that_eval_did_not_reach_are_told(net, path):
    assert findings(net, X).training == (f"{path} is still in training mode",)


@pytest.mark.parametrize(
    "healthy",
    [
        lambda: InList(nn.ReLU(), nn.Tanh()),
        lambda: InList(nn.Linear(4, 4)),
        lambda: InList(nn.Dropout(), hold=nn.ModuleList),
        lambda: InDict(nn.LayerNorm(4)),
        lambda: Averaged(nn.Dropout()),
    ],
)
def test_parts_that_do_not_heed_the_flag_or_were_reached_or_did_not_run_are_not_told(healthy):
    assert findings(healthy(), X).training == ()


def test_a_module_that_is_meant_to_train_has_no_part_left_in_training():
    assert findings(InList(nn.Dropout()), X, mode="train").training == ()


@pytest.mark.parametrize(
    ("net", "path"),
    [
        (InList(nn.Linear(4, 4)), "parts[0] (Linear)"),
        (InDict(nn.LayerNorm(4)), "parts['0'] (LayerNorm)"),
        (InObject(nn.Linear(4, 4)), "parts.net (Linear)"),
    ],
)
def test_modules_with_state_in_plain_containers_are_told(net, path):
    (told,) = findings(net, X).unregistered
    assert told.startswith(f"{path} is in no register of its parent")


def test_modules_of_one_class_in_plain_containers_are_told_once():
    net = InList(nn.Linear(4, 4))
    net.parts += [nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)]
    layers, norm = findings(net, X).unregistered
    assert layers.startswith("parts[0] (Linear) is in no register")
    assert layers.endswith("pass it by, and 2 more of its class")
    assert norm.startswith("parts[3] (LayerNorm)")


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.order = [self.second, self.first]
        self.whole = [self]

    def forward(self, x):
        for part in self.order:
            x = part(x)
        return x


@pytest.mark.parametrize(
    "healthy",
    [Twice, lambda: InList(nn.ReLU()), lambda: InList(nn.Linear(4, 4), hold=nn.ModuleList)],
)
def test_modules_that_are_registered_elsewhere_or_hold_nothing_are_not_told(healthy):
    assert silent(findings(healthy(), X))


# -- the order of sets -----------------------------------------------------------------------------


def by_display(self, x):
    total = x
    for name in {"a", "b", "c"}:  # here
        total = total * 0.5 + len(name)
    return total


def by_attribute(self, x):
    return torch.stack([x * len(name) for name in self.names])  # here


def by_local(self, x):
    names = set(self.table)
    for name in names:  # here
        x = x + self.table[name]
    return x


def by_list(self, x):
    names = list(frozenset(self.table.keys()))  # here
    return x + len(names)


def by_comprehension(self, x):
    out = [x + len(name) for name in {key.upper() for key in self.table}]  # here
    return out[0]


NAMES = {"alpha", "beta", "gamma"}


@pytest.mark.parametrize("forward", [by_display, by_attribute, by_local, by_list, by_comprehension])
def test_a_forward_that_iterates_a_set_of_strings_is_told_with_its_line(forward):
    found = findings(Inner(module(forward, names=NAMES, table={"a": 1, "b": 2})), X)
    (told,) = found.set_order
    assert told.startswith("iterates a set, whose order differs between processes in block, ")
    assert told.endswith("# here")


def test_a_method_that_forward_calls_is_read_too():
    class Net(nn.Module):
        def forward(self, x):
            return self.mix(x)

        def mix(self, x):
            for name in {"a", "b"}:  # here
                x = x * len(name)
            return x

        def unused(self, x):
            return [name for name in {"a", "b"}]

    (told,) = findings(Net(), X).set_order
    assert told.endswith("# here")


def test_a_plain_function_is_read_too():
    def function(x):
        for name in {"a", "b"}:  # here
            x = x * len(name)
        return x

    (told,) = findings(function, X).set_order
    assert told.endswith("# here")


def in_order(self, x):
    for name in sorted(self.names):
        x = x + len(name)
    return x


def asked_only(self, x):
    return x + 1 if "alpha" in self.names and "b" in {"a", "b"} else x - 1


def of_numbers(self, x):
    for size in {1, 2, 3} | set(x.shape):
        x = x + size
    return x


def in_no_order(self, x):
    return x + max(len(name) for name in self.names) + len({"a", "b"})


def over_a_dict(self, x):
    for name in dict.fromkeys(["a", "b"]):
        x = x + len(name)
    return x


@pytest.mark.parametrize("healthy", [in_order, asked_only, of_numbers, in_no_order, over_a_dict])
def test_sets_in_an_order_that_is_fixed_or_does_not_matter_are_healthy(healthy):
    assert silent(findings(module(healthy, names=NAMES), X))


# -- odd models ------------------------------------------------------------------------------------


def test_a_model_that_raises_leaves_what_was_known_by_then():
    net = InList(nn.Dropout(), nn.Linear(7, 7))
    found = findings(net, X, complete=False)
    assert found.training
    assert silent(found, "training", "unregistered")


@pytest.mark.parametrize("error", [SystemExit, RuntimeError])
def test_no_exception_of_a_model_comes_out(error):
    def forward(self, x):
        raise error("no")

    assert silent(findings(module(forward), X, complete=False))


def test_what_ends_the_test_comes_out():
    def forward(self, x):
        pytest.skip("not today")

    with pytest.raises(pytest.skip.Exception):
        findings(module(forward), X, complete=False)


def test_a_module_with_a_branch_of_torch_cond_is_examined_whole():
    def forward(self, x):
        return torch.cond(x.sum() > 5, torch.sin, torch.cos, (x + torch.rand(4),))

    found = findings(module(forward), X)
    assert silent(found, "random")
    assert found.random[0].startswith("torch.rand, ")


def test_a_module_that_cannot_bear_being_watched_is_examined_as_far_as_possible():
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    def forward(self, x):
        if _get_current_dispatch_mode() is not None:
            raise RuntimeError("watched")
        self.steps += 1
        return x

    found = findings(module(forward, steps=0), X)
    assert tuple(map(str, found.changed)) == ("attribute steps",)
    assert found.aliases == ("output shares memory with x",)


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeLimitExceeded])
def test_an_interrupt_and_the_time_limit_pass_through(error):
    def forward(self, x):
        raise error

    with pytest.raises(error):
        findings(module(forward), X)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError(errno.EMFILE, "Too many open files"), Ineffective),
        (torch.OutOfMemoryError("the device is full"), torch.OutOfMemoryError),
        (RuntimeError("an index out of range"), ContextLost),
    ],
    ids=["files", "memory", "context"],
)
def test_what_is_not_the_models_passes_through(monkeypatch, error, passes):
    def forward(self, x):
        raise error

    if passes is ContextLost:
        monkeypatch.setattr(cuda, "lost", lambda: "the context is lost")
    with pytest.raises(passes):
        findings(module(forward), X)


def test_memory_that_runs_out_while_the_module_is_copied_passes_through():
    class Large(nn.Module):
        def __deepcopy__(self, memo):
            raise MemoryError

    with pytest.raises(Ineffective, match="no memory is left"):
        findings(Large(), X)


def test_a_module_that_cannot_be_copied_has_nothing_said_about_it():
    class Uncopyable(nn.Module):
        def __deepcopy__(self, memo):
            raise TypeError("no")

        def forward(self, x):
            return x

    assert silent(findings(Uncopyable(), X, complete=False))


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, *args: torch.ones(2) * 2,
        lambda self, *args: (1, None, "text", {"a": [True]}),
        lambda self, *args: None,
    ],
)
def test_no_tensor_in_and_no_tensor_out_are_fine(forward):
    assert silent(findings(module(forward)))
    assert silent(findings(module(forward), 3, "text"))


def test_lazy_parameters_that_were_made_are_fine():
    net = nn.LazyLinear(2)
    net(X)
    assert silent(findings(net, X))


def test_the_given_module_is_never_touched():
    nets = [Changing(bump), Changing(decay), Accumulates(), Healthy(), InList(nn.Dropout())]
    for net in nets:
        net.eval()
        before, values = fingerprint(net), {k: v.clone() for k, v in net.state_dict().items()}
        x = X.clone()
        examine(Subject.of(net), Call((x,)), 0)
        assert changed(before, fingerprint(net)) == ()
        assert all(torch.equal(value, values[name]) for name, value in net.state_dict().items())
        assert torch.equal(x, X)


def test_a_method_of_a_module_and_of_a_plain_object_are_examined():
    class Plain:
        def __init__(self):
            self.count = 0

        def run(self, x):
            self.count += 1
            return x + torch.rand(1)

    found = findings(Plain().run, X)
    assert tuple(map(str, found.changed)) == ("attribute self.count",)
    assert found.random[0].startswith("torch.rand, ")

    class Net(nn.Module):
        def encode(self, x):
            return x + torch.rand(1)

    assert findings(Net().encode, X).random[0].startswith("torch.rand, ")


def test_the_note_on_many_changes_counts_those_that_it_does_not_name():
    class Many(nn.Module):
        def forward(self, x):
            for index in range(20):
                setattr(self, f"a{index}", index)
            return x + 1

    (note,) = _sentences(findings(Many(), X))
    assert note.endswith(" and 17 more; each call starts anew")


def test_many_findings_of_a_kind_are_cut_short():
    found = _Found()
    found.say("random", [f"torch.rand, line {n}" for n in range(20)])
    assert len(found.so_far.random) == 9
    assert found.so_far.random[-1] == "and 12 more"
