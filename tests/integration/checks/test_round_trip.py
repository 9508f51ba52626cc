"""checks/round_trip.py if a step fails: a clear failure, nothing left behind, the next item unaffected."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import tempfile

import pytest
import torch
import zoo
from slow import slow
from torch import nn

from pytest_torchexport import check_export, engine
from pytest_torchexport.checks import round_trip
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.sandbox import process, session, wire
from pytest_torchexport.sandbox.libraries import library_named
from pytest_torchexport.sandbox.process import Server
from pytest_torchexport.sandbox.session import SandboxSession
from pytest_torchexport.targets.base import DirectArtifact
from pytest_torchexport.targets.formats.onnx_runtime import TensorFile
from tests import hostile

X = (torch.linspace(-1, 1, 6).reshape(2, 3),)


def check(target="trace", **options):
    return check_export(nn.Linear(3, 2), X, target=target, max_examples=1, **options)


def homes():
    return [server.home for server in Server._shared.values() if server.alive]


def rooms():
    """The directories of artifacts that are still there."""
    return [path for home in homes() for path in home.glob("artifact-*")]


@pytest.fixture(autouse=True)
def _nothing_is_left_and_the_next_item_passes(monkeypatch):
    yield
    assert rooms() == []
    monkeypatch.undo()
    verdict = check()
    assert verdict.status == "passed", verdict.reason
    assert not verdict.isolated
    assert rooms() == []


def failed(verdict, failure, *said):
    """The verdict's own words."""
    text = "\n".join([verdict.reason, *verdict.details])
    assert verdict.failure == failure, text
    assert "please report it" not in text
    for part in said:
        assert part in text
    return text


# -- the order of the calls ------------------------------------------------------------------------


def test_other_calls_are_compared_and_those_left_out_are_told(monkeypatch):
    run, rows = round_trip.call_loaded, []

    def doubled_at_the_last(session, artifact, call, **options):
        rows.append(call.args[0].shape[0])
        outcome, state = run(session, artifact, call, **options)
        wrong = rows[-1] == 8
        return (Returned(outcome.value * 2, outcome.inputs) if wrong else outcome), state

    monkeypatch.setattr(round_trip, "call_loaded", doubled_at_the_last)
    verdict = check(checks=["round_trip"], dims={"batch": (1, 8)})
    failed(verdict, "RoundTripDiffers", "a call at batch = 8 after loading")
    assert len(set(rows)) > 2
    monkeypatch.setattr(round_trip, "KEPT", 1)
    verdict = check(checks=["round_trip"], dims={"batch": (1, 8)})
    assert any("for lack of memory" in note for note in verdict.notes)


def test_large_weights_are_in_one_process_at_a_time(monkeypatch):
    sessions, loaded_there = [], []
    begin, call = SandboxSession.__init__, TensorFile.__call__

    def remembered(self, *args, **kwargs):
        sessions.append(self)
        begin(self, *args, **kwargs)

    def watched(self, *args, **kwargs):
        loaded_there.extend(not one.over for one in sessions)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(SandboxSession, "__init__", remembered)
    monkeypatch.setattr(TensorFile, "__call__", watched)
    large = nn.Linear(2**11, 2**11 + 1)
    verdict = check_export(large, (torch.ones(2, 2**11),), target="onnx", max_examples=1)
    assert verdict.status == "passed", verdict.reason
    assert loaded_there
    assert not any(loaded_there)


# -- saving ----------------------------------------------------------------------------------------


def _raises(artifact, directory):
    raise ValueError("a value that cannot be written")


def _full(artifact, directory):
    (directory / "model.pt").write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory / "model.pt"))


def _half(artifact, directory):
    (directory / "parts").mkdir()
    (directory / "model.pt").write_bytes(b"half")
    (directory / "parts" / "one.bin").write_bytes(b"half")
    raise RuntimeError("in the middle")


def _none(artifact, directory):
    torch.jit.save(artifact.program, directory / artifact.filename)


def _text(artifact, directory):
    torch.jit.save(artifact.program, directory / artifact.filename)
    return str(directory / artifact.filename)


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (_raises, ["cannot be saved: ValueError: a value that cannot be written"]),
        (
            _half,
            [
                "cannot be saved: RuntimeError: in the middle",
                "and leaves model.pt, parts/one.bin behind, half-written",
            ],
        ),
        (_none, ["save is to return the path of a file", "returned None", "wrote model.pt there"]),
        (_text, ["save is to return the path of a file", "it wrote model.pt there"]),
    ],
)
def test_a_save_that_goes_wrong_is_told(monkeypatch, save, said):
    monkeypatch.setattr(DirectArtifact, "save", save)
    failed(check(), "LoadFailed", *said)


@pytest.mark.parametrize(
    ("row", "target", "said", "line"),
    [
        ("own gradient", "trace", "Clip stays Python", "return Clip.apply(x) * 2"),
        ("ignored helper", "script", "helper stays Python", "return self.helper(x) + 1"),
    ],
)
def test_a_call_that_stays_python_is_told_with_its_line(row, target, said, line):
    module = next(each for each in zoo.ZOO if each.name == row).build()
    verdict = check_export(module, X, target=target, max_examples=1)
    failed(verdict, "LoadFailed", said, "remedy: ")
    assert verdict.where.text == line
    assert verdict.details[1].endswith("'")  # torch's frames are left out


def test_a_save_on_a_full_disk_is_the_machines_fault(monkeypatch):
    monkeypatch.setattr(DirectArtifact, "save", _full)
    said = ["the disk is full", "No space left on device", "TMPDIR"]
    failed(check(), "Ineffective", *said)


@pytest.mark.parametrize(
    ("save", "ends"),
    [
        (_raises, ("skipped", "refused")),
        (_full, ("failed", "Ineffective")),
        (_none, ("skipped", "refused")),
    ],
)
def test_a_default_target_that_cannot_save_refuses(monkeypatch, save, ends):
    monkeypatch.setattr(DirectArtifact, "save", save)
    plan = Plan(target="trace", device="cpu", named=False, max_examples=1)
    verdict = engine.check(nn.Linear(3, 2), [Call(X)], plan)
    assert (verdict.status, verdict.skip or verdict.failure) == ends, verdict.reason


def test_a_save_that_does_not_return_is_hung(monkeypatch):
    def save(artifact, directory):
        while True:
            pass

    monkeypatch.setattr(DirectArtifact, "save", save)
    failed(
        check(time_limit=2), "ArtifactHung", "saving the artifact did not return", "limit of 2 s"
    )


# -- between saving and loading --------------------------------------------------------------------


def spoil(monkeypatch, how):
    """Do something to the file after it was moved."""
    plain = round_trip._moved

    def moved(case):
        saved = plain(case)
        how(saved.path)
        return saved

    monkeypatch.setattr(round_trip, "_moved", moved)


def test_a_truncated_file_does_not_load(monkeypatch):
    spoil(monkeypatch, lambda path: os.truncate(path, path.stat().st_size // 2))
    failed(check(), "LoadFailed")


def test_a_file_that_kills_who_loads_it_is_not_called_here(monkeypatch, tmp_path):
    """Nobody asked for the round trip; where isolation was asked for, a call here might be the last."""
    killer = hostile.nested_source(tmp_path)
    spoil(monkeypatch, lambda path: shutil.copyfile(killer, path))
    verdict = check(checks=["parity"], isolate=True)
    failed(verdict, "ArtifactCrashed", "while it was loaded: it was killed by SIGSEGV")


def test_a_file_that_does_not_load_is_not_isolated_and_says_why(monkeypatch):
    spoil(monkeypatch, lambda path: path.write_bytes(b""))
    verdict = check(checks=["parity"], isolate=True)
    assert verdict.status == "passed"
    assert not verdict.isolated
    (note,) = (note for note in verdict.notes if note.startswith("not isolated: "))
    assert "not a ZIP archive" in note


# -- memory ----------------------------------------------------------------------------------------


@slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps to a limit of memory")
def test_a_call_that_is_larger_than_the_memory_is_told_with_the_limit():
    verdict = check_export(
        nn.Identity(),
        (torch.ones(24_000_000),),
        target="trace",
        checks=["round_trip"],
        shapes={"input": "..."},
        max_examples=1,
        memory_limit=260,
        diagnose=False,
    )
    failed(verdict, "ArtifactCrashed", "exhausted its memory limit of 260 MB")


# -- directories -----------------------------------------------------------------------------------


@pytest.fixture
def no_server():
    """As before the first artifact."""
    Server.close_all()


def test_without_a_temporary_directory_the_next_step_is_told(monkeypatch, no_server):
    def mkdtemp(**options):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    failed(check(), "Ineffective", "No usable temporary directory", "next step", "TMPDIR")


# -- processes -------------------------------------------------------------------------------------


def before_answer(monkeypatch, numbers, act):
    """Do something to a session before its answers of these numbers are asked for: the first is that it is ready, the
    second that it has loaded.
    """
    plain, asked = SandboxSession._exchange, []

    def exchange(own, message, about, limit):
        asked.append(about)
        if len(asked) in numbers:
            act(own)
        return plain(own, message, about, limit)

    monkeypatch.setattr(SandboxSession, "_exchange", exchange)


def kill_child(own):
    os.kill(own._child.pid, signal.SIGKILL)


def kill_server(own):
    server = Server.of(library_named(own._source.library))
    os.kill(server._process.pid, signal.SIGKILL)
    server._process.wait()


where_it_forks = pytest.mark.skipif(
    not process.FORKS, reason="there is no server where there is no fork"
)


@where_it_forks
@pytest.mark.parametrize(
    ("target", "act", "number"),
    [
        *(("trace", kill_child, number) for number in (1, 2, 3, 6)),
        *(("trace", kill_server, number) for number in (1, 3)),
        # In the server of another library.
        *(("onnx", kill_server, 2), ("onnx", kill_child, 3)),
    ],
)
def test_who_is_killed_is_loaded_again_and_watched_if_it_had_loaded(
    monkeypatch, act, target, number
):
    before_answer(monkeypatch, {number}, act)
    verdict = check(target)
    assert verdict.status == "passed", (verdict.failure, verdict.reason)
    assert verdict.isolated or number < 3


@where_it_forks
def test_who_is_killed_each_time_it_loads_is_told(monkeypatch):
    before_answer(monkeypatch, {1, 2}, kill_child)
    failed(check(), "Ineffective", "could not be started: it was killed by SIGKILL")
    before_answer(monkeypatch, {2, 4}, kill_child)
    failed(check(), "ArtifactCrashed", "while it was loaded: it was killed by SIGKILL")


@pytest.mark.parametrize(("number", "failure"), [(1, "Ineffective"), (2, "ArtifactCrashed")])
def test_an_answer_that_is_none_is_told(monkeypatch, number, failure):
    plain, received = wire.receive, []

    def receive(*arguments, **options):
        received.append(plain(*arguments, **options))
        if len(received) == number:
            raise wire.Malformed("ValueError: nonsense")
        return received[-1]

    monkeypatch.setattr(session.wire, "receive", receive)
    failed(check(), failure, "a malformed answer (ValueError: nonsense)")
