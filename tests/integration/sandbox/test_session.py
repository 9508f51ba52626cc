"""sandbox/session.py: artifacts that answer, raise, crash, hang and run out of memory."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from in_sandbox import Own, run, where_it_forks

from pytest_torchexport.inputs.call import Call
from pytest_torchexport.outcomes.observe import Crashed, NotTransferable, Returned, TimedOut
from pytest_torchexport.sandbox import wire


def test_an_artifact_runs_there_and_its_values_come_back(ways, load):
    session = load("ADD", "2.5")
    for _ in range(3):
        outcome = run(session, Call((torch.ones(2),), {"scale": 3}))
        assert isinstance(outcome, Returned), outcome
        assert outcome.value["y"].tolist() == [3.5, 3.5]
        assert outcome.value["kwargs"] == {"scale": 3}


def test_state_is_put_back_before_a_call_unless_it_goes_on(load):
    session = load("STATEFUL")
    assert [run(session).value.item() for _ in range(2)] == [1, 1]
    assert [run(session, anew=False).value.item() for _ in range(2)] == [2, 3]
    assert session.tensors(60.0)["buffer count"].item() == 0
    _, state = session.run(Call((torch.zeros(2),)), seed=0, limit=60.0, state=True)
    assert state["buffer count"].item() == 1


@pytest.mark.parametrize("known", [{}, {"buffer read": 0.0}, {"buffer read": 1.0}], ids=str)
def test_a_large_tensor_that_no_call_writes_to_is_sent_once_if_at_all(load, known, monkeypatch):
    session = load("LARGE")
    like = {name: torch.full((300_000,), value) for name, value in known.items()}
    sent = []
    receive = wire.receive
    monkeypatch.setattr(wire, "receive", lambda *a, **k: sent.append(receive(*a, **k)) or sent[-1])
    for number in (1, 2):
        _, state = session.run(
            Call((torch.zeros(2),)), seed=0, limit=60.0, anew=number == 1, state=True, like=like
        )
        assert state["buffer written"].eq(number).all()
        assert state["buffer read"].eq(0).all()
    asked = sum(list(answer["state"]) == ["buffer read"] for answer in sent)
    assert asked == (like.get("buffer read", torch.ones(1))[0] != 0)
    assert len(sent) == 2 + asked


def test_a_load_that_raises_is_told(ways, load):
    session = load("RAISES", "this")
    assert str(session.problem) == "ValueError: cannot load this"
    assert run(session) == session.problem


@pytest.mark.parametrize("target", ["CRASH_IN_CALL", "NULL"])
def test_a_crash_is_told_by_its_signal_and_its_last_words(ways, load, target):
    session = load(target)
    outcome = run(session)
    assert isinstance(outcome, Crashed)
    assert outcome.reason == "it was killed by SIGSEGV"
    assert ("last words of the artifact" in outcome.output) == (target == "CRASH_IN_CALL")
    assert session.over
    assert run(session) == outcome


def test_a_crash_while_loading_is_told(ways, load):
    problem = load("CRASH").problem
    assert isinstance(problem, Crashed)
    assert "SIGSEGV" in problem.reason


def test_an_artifact_that_ends_its_interpreter_died(ways, load):
    assert run(load("EXITS_AT_ONCE")).reason == "it ended its process with exit status 3"
    assert str(load("EXITS").problem) == "SystemExit: 3"


def test_a_load_that_does_not_return_is_hung(ways, load):
    run(load("ADD"))  # the server is up
    session = load("HANG", limit=5.0)
    assert session.problem == TimedOut(5.0)
    assert session.over


def test_a_call_that_does_not_return_is_hung_and_its_process_gone(ways, load):
    session = load("HANG_IN_CALL")
    assert run(session, limit=0.3) == TimedOut(0.3)
    assert session.over


def test_memory_without_end_is_told_with_the_limit(ways, load):
    outcome = run(load("ALLOCATES", memory=1024))
    assert isinstance(outcome, Crashed)
    assert "exhausted its memory limit of 1024 MB (torchexport_memory_limit)" in outcome.reason


def test_a_process_that_has_lost_cuda_has_crashed(load):
    session = load("NO_CUDA")
    outcome = run(session)
    assert isinstance(outcome, Crashed)
    assert outcome.reason == (
        "it made CUDA unusable for its process: CUDA error: device-side assert triggered"
    )
    assert not outcome.from_outside
    assert session.over


def test_output_without_end_is_told_with_the_limit(ways, load):
    outcome = run(load("PRINTS"))
    assert isinstance(outcome, Crashed)
    assert outcome.reason == (
        "it was killed by SIGXFSZ (it wrote a file of more than 64 MB, or more than 256 MB in all)"
    )
    assert set(outcome.output) == {"x"}


@pytest.mark.parametrize("text", ["no frame", "not json", "closed"])
def test_an_artifact_that_speaks_in_the_place_of_its_process_is_not_believed(load, text):
    problem = load("NONSENSE", text, limit=20.0).problem
    assert isinstance(problem, Crashed), problem


def test_a_value_that_cannot_come_back_is_told_and_does_not_crash(load):
    outcome = run(load("OBJECT"))
    assert isinstance(outcome, NotTransferable)
    assert not outcome.own_class
    assert "cannot be sent" in outcome.reason


def test_a_call_that_cannot_cross_is_told_before_anything_is_sent(load):
    session = load("ADD")
    outcome, _ = session.run(Call((Own(),)), seed=0, limit=1.0)
    assert outcome == NotTransferable(
        "in_sandbox.Own cannot be sent to a process that does not know the class", own_class=True
    )
    assert isinstance(run(session), Returned)


@where_it_forks
def test_a_child_that_is_killed_between_calls_died(load):
    session = load("ADD")
    os.kill(session._child._pid, signal.SIGKILL)
    outcome = run(session)
    assert outcome.reason.startswith("it was killed by SIGKILL")


def test_an_interrupt_in_a_call_ends_its_process_and_nothing_else(load, monkeypatch):
    session, other = load("ADD"), load("ADD")
    with monkeypatch.context() as patched:
        patched.setattr(wire, "receive", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(session)
    assert session.over
    assert isinstance(run(other), Returned)


def _interrupted(*args, **kwargs):
    raise KeyboardInterrupt
