"""eager/preflight.py: what there is to say about eager before anything is exported.

A row per mechanism: a forward that has it, with the sentence, its line marked ``# here``; and
look-alikes, about which there is nothing to say.
"""

# ruff: noqa: ARG005, PLW0108, PLW0603  # the habits that are judged here, forwards in one line

from __future__ import annotations

import errno
import random
import time

import pytest
import torch
import torch.nn.functional as F
from preflights import Healthy, findings, silent
from torch import nn

from pytest_torchexport.eager.fingerprint import Change, StateRef
from pytest_torchexport.eager.preflight import (
    Fill,
    _bounded,
    changed_at,
    is_dropout,
    watch,
)
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.cuda import ContextLost
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.failures import Ineffective

X = torch.linspace(-1, 1, 12).reshape(1, 3, 4)
TOLD = []


def told(field, start, end="# here"):
    """Add a row: in a part of a model named ``block``, this forward has one sentence."""

    def add(forward):
        TOLD.append(pytest.param(forward, field, start, end, id=forward.__name__))
        return forward

    return add


class Inner(nn.Module):
    """A model whose part ``block`` does what a test says."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x) + 1


def module(forward, **attributes):
    """A module of this forward (a plain function of self and x), with these attributes."""
    made = type("Made", (nn.Module,), {"forward": forward, "__module__": __name__})()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def model(forward):
    return module(forward, steps=0)


# -- random numbers --------------------------------------------------------------------------------


@told("dropping", "dropout is active in eval mode (pass training=self.training) in block, ")
def functional_dropout(self, x):
    return F.dropout(x, 0.5)  # here


@told("random", "torch.exponential_ in block, ")
def draws_inside_torch(self, x):
    return F.gumbel_softmax(x)  # here


@told("random", "Python's random in block, ")
def draws_by_python(self, x):
    y = x * 2
    y = y * random.random()  # here
    return y - 1


# -- what does not repeat itself -------------------------------------------------------------------

counter = 0


@told(
    "unrepeatable",
    "two calls on equal inputs, from equal state and seed, differ, first at torch.mul in block",
    "in block",
)
def by_the_clock(self, x):
    y = x + 1
    y = y * (time.time() % 1)
    return torch.empty_like(y).copy_(y)


@told(
    "unrepeatable", "two calls on equal inputs, from equal state and seed, differ", "copies share"
)
def by_counter(self, x):
    global counter
    counter += 1
    return x.sin() * counter


# -- uninitialized memory --------------------------------------------------------------------------


@told("uninitialized", "torch.empty is never initialized in block, ")
def one_of_two(self, x):
    fine = torch.empty(4).copy_(x[0, 0])
    bad = torch.empty(4)  # here
    return fine + bad


# -- writes to inputs ------------------------------------------------------------------------------


@told("writes_inputs", "writes to x in block, ")
def through_a_view(self, x):
    x.view(-1)[:2].add_(1)  # here
    return x.sum()


def test_inputs_in_containers_and_keywords_are_named_as_a_user_writes_them():
    class Net(nn.Module):
        def forward(self, state, *rest, mask=None):
            state[0]["h"].zero_()
            rest[1].add_(1)
            mask.logical_not_()
            return state[0]["h"] + rest[0]

    mask = torch.ones(2, dtype=torch.bool)
    found = findings(Net(), [{"h": torch.ones(2)}], torch.ones(2), torch.ones(2), mask=mask)
    named = ("state[0]['h']", "rest[1]", "mask")
    said = zip(found.writes_inputs, named, strict=True)
    assert all(sentence.startswith(f"writes to {name}, ") for sentence, name in said)


# -- changes ---------------------------------------------------------------------------------------


@told("changes", "attribute block.steps")
def counts(self, x):
    self.steps += 1  # here
    return x + 1


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


def test_a_method_of_a_plain_object_is_examined():
    class Plain:
        count = 0

        def run(self, x):
            self.count += 1
            return x + torch.rand(1)

    found = findings(Plain().run, X)
    assert tuple(map(str, found.changed)) == ("attribute self.count (new)",)
    assert found.random[0].startswith("torch.rand, ")


# -- training mode ---------------------------------------------------------------------------------


class Stubborn(nn.Dropout):
    def train(self, mode=True):
        return super().train(True)


class Holding(nn.Module):
    """Holds its parts in a list, which is no register."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = list(parts)

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Alternating(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        self.drop.train()
        dropped = self.drop(x)  # here
        self.drop.eval()
        return dropped


def test_dropout_that_forward_turns_on_and_off_again_is_told():
    (told,) = findings(Alternating().eval(), X).dropping
    assert told.startswith("drop is in training mode for a part of forward, ")
    assert told.endswith("dropped = self.drop(x)  # here")


@pytest.mark.parametrize(
    ("net", "path"),
    [
        (Inner(Stubborn()), "block (Stubborn)"),
        (Holding(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3))), "parts[0].1 (BatchNorm1d)"),
        (Holding(nn.ReLU(), nn.Linear(4, 4)), None),
    ],
)
def test_parts_that_eval_did_not_reach_and_that_heed_the_flag_are_told(net, path):
    told = (f"{path} is still in training mode",) if path else ()
    found = findings(net, X)
    left = (text for text in (*found.training, *found.dropping) if "still in training" in text)
    assert tuple(left) == told
    drawn = "block (Stubborn, left in training mode) drops at random, "
    assert [said.startswith(drawn) for said in found.random] == [True] * ("Stubborn" in str(path))


# -- the rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("forward", "field", "start", "end"), TOLD)
def test_a_forward_has_its_sentence_with_the_line(forward, field, start, end):
    found = findings(Inner(model(forward)), X.clone())
    said = getattr(found, field)
    (said,) = said if isinstance(said, tuple) else (said,)
    assert said.startswith(start)
    assert said.endswith(end)


HEALTHY = [
    Healthy,
    lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
    lambda: Healthy().eval().forward,
    # draws
    lambda: model(lambda self, x: F.dropout(x, training=self.training) * 1),
    lambda: model(lambda self, x: x * random.Random(3).random()),
    # memory
    lambda: model(lambda self, x: torch.baddbmm(torch.empty(1, 3, 3), x, x.mT, beta=0)),
    # writes
    lambda: model(lambda self, x: F.relu(x + 1, inplace=True)),
]


@pytest.mark.parametrize("healthy", HEALTHY)
def test_there_is_nothing_to_say_about_healthy_models(healthy):
    assert silent(findings(healthy(), X.clone()))


# -- odd models ------------------------------------------------------------------------------------


def raising(error):
    def forward(self, x):
        raise error

    return module(forward)


def test_no_exception_of_a_model_comes_out():
    assert silent(findings(raising(SystemExit("no")), X, complete=False))


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (TimeLimitExceeded(), TimeLimitExceeded),
        (OSError(errno.EMFILE, "Too many open files"), Ineffective),
        (RuntimeError("an index out of range"), ContextLost),
    ],
)
def test_what_is_not_the_models_passes_through(monkeypatch, error, passes):
    if passes is ContextLost:
        monkeypatch.setattr(cuda, "lost", lambda: "the context is lost")
    with pytest.raises(passes):
        findings(raising(error), X)


def test_a_module_that_cannot_be_copied_has_nothing_said_about_it():
    class Uncopyable(nn.Module):
        error = TypeError("no")

        def __deepcopy__(self, memo):
            raise self.error

        def forward(self, x):
            return x

    assert silent(findings(Uncopyable(), X, complete=False))
    Uncopyable.error = MemoryError()
    with pytest.raises(Ineffective, match="no memory is left"):
        findings(Uncopyable(), X)


def test_many_findings_are_cut_short_and_counted():
    assert _bounded(f"torch.rand, line {n}" for n in range(20))[-1] == "and 12 more"


# -- a watched run ---------------------------------------------------------------------------------


def watched(thing, *args, names=None, **options):
    """The tape of a watched run."""
    return watch(Subject.of(thing), Call(args), 0, names=names, **options)[0]


def test_a_compiled_function_is_watched_as_it_was_written():
    @torch.compile(backend="eager")
    def compiled(x):
        return x.sin() + 1

    assert compiled(torch.zeros(2)).tolist() == [1, 1]
    found = watched(lambda x: compiled(x), torch.zeros(2))
    assert [op.name for op in found.steps] == ["sin", "add"]
    assert compiled(torch.zeros(2)).tolist() == [1, 1]


# -- uninitialized memory and digests --------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "filled"),
    [
        (lambda x: torch.empty(3), [7.0] * 3),
        (lambda x: x.clone().resize_(4), [1, 1, 7, 7]),
        (lambda x: torch.empty(1, dtype=torch.int64), [1]),
    ],
)
def test_such_memory_can_be_filled(make, filled):
    assert watched(make, torch.ones(2), fill=Fill(7.0, 1)).outcome.value.tolist() == filled


# -- lines at which something moves ----------------------------------------------------------------

CALL = Call((torch.ones(2, 3),))
SEEN = []


class Moves(nn.Module):
    count = 0

    def __init__(self):
        super().__init__()
        self.seen = {"calls": []}

    def note(self, x):
        self.seen["calls"].append(len(x))
        return x

    def forward(self, x):
        Moves.count += 1
        SEEN.append(x)
        if not hasattr(self, "offset"):
            self.register_buffer("offset", x.mean(0))
        return self.note(x * 2)


@pytest.mark.parametrize(
    ("ref", "line"),
    [
        (StateRef("attribute", "1.seen['calls']"), ".append(len(x))"),
        (StateRef("buffer", "1.offset"), "register_buffer"),
        (StateRef("class attribute", "Moves.count"), "Moves.count += 1"),
        (StateRef("global", "SEEN"), "SEEN.append(x)"),
        (StateRef("global", "numbers"), "None"),
    ],
)
def test_the_line_that_changes_a_place(ref, line):
    subject = Subject.of(nn.Sequential(nn.ReLU(), Moves()))
    assert line in str(changed_at(subject, CALL, 0, [ref]).get(ref))


def test_a_model_that_is_named_after_dropout_is_no_dropout():
    class WithDropout(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

    assert [is_dropout(part) for part in (nn.Dropout(), nn.Dropout2d(), WithDropout(), None)] == [
        True, True, False, False,
    ]  # fmt: skip
