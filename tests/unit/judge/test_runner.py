"""judge/runner.py: an artifact is called here or in the clean process, which loads its file."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pytest_torchexport import targets
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge import runner
from pytest_torchexport.judge.runner import (
    InProcess,
    InSandbox,
    Loader,
    call_loaded,
)
from pytest_torchexport.outcomes.observe import Crashed, Raised, Returned, TimedOut
from pytest_torchexport.sandbox import session
from pytest_torchexport.targets import ProgramFacts
from pytest_torchexport.targets.base import TargetTraits


@pytest.fixture
def preloaded(monkeypatch):
    """What ``warm_up`` asks for, by library; no process is started."""
    asked = {}
    monkeypatch.setattr(
        session, "warm_up", lambda library, modules: asked.update({library: modules})
    )
    return asked


@pytest.mark.parametrize(
    ("target", "library", "loads", "reads"),
    [
        ("trace", "torch", "targets.trace", "targets.trace"),
        ("onnx", "onnxruntime", "targets.formats.onnx_runtime", "targets.formats.onnx_runtime"),
    ],
)
def test_the_server_imports_our_loader_once(preloaded, target, library, loads, reads):
    runner.warm_up(target)
    assert set(preloaded[library]) == {f"pytest_torchexport.{loads}", f"pytest_torchexport.{reads}"}


def test_a_loader_of_another_package_is_imported_by_each_child(preloaded, monkeypatch):
    loader = Loader("theirs.files:load", "theirs.files:read", "torch")
    monkeypatch.setattr(runner, "loader_of", lambda _: loader)
    monkeypatch.setattr(targets, "get", lambda _: SimpleNamespace(traits=TargetTraits()))
    runner.warm_up("theirs")
    assert preloaded == {"torch": ()}


X = torch.tensor([1.0, 2.0])


class Session:
    """A session whose outcomes are given; after one that died or hung it is over."""

    def __init__(self, outcomes, state=None):
        self.over = False
        self.calls = []
        self.limits = []
        self._outcomes = list(outcomes)
        self._state = state or {}

    def run(self, call, *, seed, limit, anew=True, state=False, like=()):
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        self.calls.append((call, seed, anew, state))
        self.limits.append(limit)
        self.over = isinstance(outcome, (Crashed, TimedOut))
        return outcome, self._state if state else {}

    def tensors(self, limit):
        return self._state

    def printed(self):
        return f"said in {len(self.calls)} calls"

    def close(self):
        self.over = True


class Artifact:
    """Packs a call into its tensors, unpacks a value into a list."""

    baked = ("flag=True",)
    program = "the program"
    module = None
    native_loops = True
    facts = ProgramFacts()

    def pack_inputs(self, call):
        return Call(call.tensors())

    def unpack_outputs(self, value):
        return [value]

    def save(self, directory):
        return directory / "model"


def isolated(*sessions, artifact=None):
    waiting = list(sessions)
    return InSandbox(
        artifact=artifact or Artifact(),
        open=lambda **_: waiting.pop(0),
        left=lambda: 3.0,
    )


def returned(value, *left):
    return Returned(value, Call(left or (X,)))


# -- loaded ----------------------------------------------------------------------------------------


def test_the_value_is_unpacked_and_the_inputs_are_those_of_the_call():
    session = Session([returned(X * 2, X + 1)])
    call = Call((), {"given": {"x": X}})
    outcome, state = call_loaded(session, Artifact(), call, seed=0, limit=1.0)
    assert isinstance(outcome, Returned)
    assert outcome.value[0].tolist() == [2, 4]
    assert outcome.inputs.kwargs["given"]["x"].tolist() == [2, 3]
    assert state == {}
    assert X.tolist() == [1, 2]


@pytest.mark.parametrize("method", ["pack_inputs", "unpack_outputs"])
def test_a_translation_that_raises_is_an_outcome(method):
    def fails(value):
        raise TypeError("not this kind")

    artifact = Artifact()
    setattr(artifact, method, fails)
    found, _ = call_loaded(Session([returned(X)]), artifact, Call((X,)), seed=0, limit=1.0)
    assert isinstance(found, Raised)
    assert (found.type, found.message) == ("TypeError", "not this kind")


# -- isolated --------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Crashed("gone"), TimedOut(3.0)], ids=["died", "hung"])
def test_after_each_death_there_is_a_new_process(end):
    first, second = Session([returned(X), end]), Session([returned(X)])
    artifact = isolated(first, second)
    outcomes = [artifact.run(Call((X,)), 0, again=True) for _ in range(3)]
    assert [type(outcome) for outcome in outcomes] == [Returned, type(end), Returned]
    assert len(second.calls) == 1


def test_a_call_or_a_row_is_made_once_unless_it_is_asked_for_again():
    session = Session([returned(X) for _ in range(5)])
    artifact = isolated(session)
    row = artifact.in_a_row([Call((X,))] * 2, 0)
    assert artifact.in_a_row([Call((X.clone(),))] * 2, 0) is row
    assert artifact.run(Call((X,)), 0).value is row[0][0].value
    assert len(session.calls) == 2
    artifact.run(Call((X,)), 0, again=True)
    artifact.run(Call((X,)), 1)
    artifact.run(Call((X + 1,)), 0)
    assert len(session.calls) == 5


KILLED = Crashed("it was killed by SIGKILL", from_outside=True)


def test_calls_of_a_process_that_something_else_killed_are_made_once_more():
    first, second = Session([returned(X), KILLED]), Session([returned(X), returned(X + 1)])
    found = isolated(first, second).in_a_row([Call((X,))] * 2, 0)
    assert [outcome.value[0].tolist() for outcome, _ in found] == [[1, 2], [2, 3]]
    assert [anew for _, _, anew, _ in second.calls] == [True, False]


def test_a_death_in_a_row_ends_the_row():
    first, second = Session([returned(X), Crashed("gone")]), Session([returned(X)])
    found = isolated(first, second).in_a_row([Call((X,))] * 4, 0)
    assert [type(outcome) for outcome, _ in found] == [Returned, Crashed, Crashed, Crashed]
    assert second.calls == []


def test_what_it_printed_is_known_after_its_process_has_ended():
    session = Session([returned(X)])
    artifact = isolated(session)
    assert artifact.printed() == ""
    artifact.run(Call((X,)), 0)
    assert artifact.printed() == "said in 1 calls"
    artifact.close()
    assert session.over
    assert artifact.printed() == "said in 1 calls"


# -- in this process -------------------------------------------------------------------------------


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return x + self.count


class Holds:
    """An artifact of a module."""

    native_loops = False

    def __init__(self, module):
        self.module = module

    def __call__(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def test_here_calls_start_from_the_state_of_the_export_and_in_a_row_from_each_other():
    runner = InProcess(
        Holds(Counts()), device="cpu", stateful=True, fresh_each_call=False, left=lambda: 30.0
    )
    values = [runner.run(Call((X,)), 0).value.tolist() for _ in range(2)]
    assert values == [[2, 3]] * 2
    found = runner.in_a_row([Call((X,))] * 2, 0)
    assert [outcome.value.tolist() for outcome, _ in found] == [[2, 3], [3, 4]]
    assert [state["buffer count"].item() for _, state in found] == [1, 2]
    assert runner.tensors()["buffer count"].item() == 0


def test_here_native_code_that_does_not_return_is_hung():
    class Waits:
        module = None
        native_loops = True

        def __call__(self, x):
            time.sleep(2)  # what ends, so that the tests do
            return x

    runner = InProcess(
        Waits(), device="cpu", stateful=False, fresh_each_call=False, left=lambda: 0.1
    )
    assert isinstance(runner.run(Call((X,)), 0), TimedOut)
