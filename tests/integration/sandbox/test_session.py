"""sandbox/session.py: artifacts that answer, raise, crash, hang and run out of memory."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from in_sandbox import Own, run, where_it_forks

from pytest_torchexport.inputs.pytrees import Call
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


def test_a_large_parameter_that_no_call_writes_to_is_not_sent(load):
    session, call = load("LARGE"), Call((torch.zeros(2),))
    for number in (1, 2):
        _, state = session.run(call, seed=0, limit=60.0, anew=number == 1, state=True)
        assert state.keys() == {"parameter written", "buffer counted"}
        assert all(tensor.eq(number).all() for tensor in state.values())


@pytest.mark.parametrize(
    ("target", "said"),
    [("RAISES", "ValueError: cannot load this"), ("EXITS", "SystemExit: 3")],
)
def test_a_load_that_raises_is_told(load, target, said):
    session = load(target, "this")
    assert str(session.problem) == said
    assert run(session) == session.problem


MEMORY_LIMIT = "it exhausted its memory limit of 1024 MB (torchexport_memory_limit)"
DISK_LIMIT = "it wrote a file of more than 64 MB, or more than 256 MB in all"
LOST = "it made CUDA unusable for its process: CUDA error: device-side assert triggered"


def crashes(load, target, text, reason, output=""):
    session = load(target, text, limit=20.0, memory=1024)
    outcome = session.problem or run(session)
    assert isinstance(outcome, Crashed), outcome
    assert reason in outcome.reason
    assert output in outcome.output
    assert not outcome.from_outside
    assert session.over
    assert run(session) == outcome


@pytest.mark.parametrize(
    ("target", "reason", "output"),
    [
        ("CRASH", "it was killed by SIGSEGV", "last words of the artifact"),
        ("ALLOCATES", MEMORY_LIMIT, ""),
    ],
)
def test_a_process_that_ends_has_crashed(ways, load, target, reason, output):
    crashes(load, target, "", reason, output)


@pytest.mark.parametrize(
    ("target", "text", "reason", "output"),
    [
        ("CRASH_IN_CALL", "", "it was killed by SIGSEGV", "last words of the artifact"),
        ("EXITS_AT_ONCE", "", "it ended its process with exit status 3", ""),
        ("PRINTS", "", f"it was killed by SIGXFSZ ({DISK_LIMIT})", "x" * 100),
        ("NULL", "", "it was killed by SIGSEGV", ""),
        ("NO_CUDA", "", LOST, ""),
        # It speaks in the place of its process, and is not believed.
        ("NONSENSE", "no frame", "it sent a malformed answer (a frame of", ""),
        ("NONSENSE", "not json", "it sent a malformed answer (JSONDecodeError", ""),
    ],
)
def test_a_process_that_is_of_no_further_use_has_crashed(load, target, text, reason, output):
    crashes(load, target, text, reason, output)


def test_a_process_that_closes_its_connection_is_ended(load):
    assert isinstance(load("NONSENSE", "closed", limit=20.0).problem, Crashed)


def test_a_load_that_does_not_return_is_hung_and_its_process_gone(load):
    run(load("ADD"))  # the server is up
    session = load("HANG", limit=2.0)
    assert session.problem == TimedOut(2.0)
    assert session.over


def test_a_call_that_does_not_return_is_hung_and_its_process_gone(ways, load):
    session = load("HANG_IN_CALL")
    assert run(session, limit=0.3) == TimedOut(0.3)
    assert session.over


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
    os.kill(session._child.pid, signal.SIGKILL)
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
