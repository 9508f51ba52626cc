"""Artifacts that crash, hang, or take all there is: what a user sees, and that the run goes on."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import torch
from slow import slow

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="signals and /proc as Linux has them"
)

HANGS = """
class Hangs(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting() and x.size(0) > 2:
            print("for ever")
            while x.size(0) > 2:
                x = x * 1.0
        return x * 2

@pytest.mark.torchexport('script')
def test_hangs(): Hangs()(torch.ones(2, 3))
"""
SUITE = f'''
pytestmark = pytest.mark.torchexport('script')

class Reads(nn.Module):
    """Lengths that torch is told not to check: SIGSEGV."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting() and x.size(0) > 2:
            print("about to read")
            beyond = torch.full([1], 1 << 38, dtype=torch.int64)
            return x + torch.segment_reduce(x.flatten(), "sum", lengths=beyond, unsafe=True)
        return x * 2


def test_reads(): Reads()(torch.ones(2, 3))
{HANGS}
def test_after(): nn.ReLU()(torch.ones(2, 3))
'''
REPORT = "--torchexport-report=json:out.json"


@pytest.fixture
def own_tmp(pytester, monkeypatch):
    """A directory for temporary files that no other test session uses."""
    path = pytester.mkdir("tmp")
    monkeypatch.setenv("TMPDIR", str(path))
    return path


def processes_below(path):
    """Processes whose environment names the directory."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(entry.name) != os.getpid() and str(path).encode() in (
                (entry / "environ").read_bytes()
            ):
                found.append(entry.name)
    return found


def left_behind(path):
    """Return the files that a session has left, when those who clean up after it have had their time."""
    end = time.monotonic() + 30
    while True:
        left = [*processes_below(path), *(file.name for file in path.glob("torchexport-*"))]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)


# -- what a user sees ------------------------------------------------------------------------------


def test_what_does_not_survive_fails_its_item_and_the_run_goes_on(
    suite, run, pytester, verdicts, text_of
):
    suite(SUITE, fakes=False)
    result = run(REPORT, "-k", "not hangs")
    result.assert_outcomes(failed=1, passed=1)
    assert (
        "ArtifactCrashed: torch.jit.is_scripting() is True on script, and eager gets there"
        in text_of(result)
    )
    (crashed,), (after,) = verdicts().values()
    run(REPORT, "-k", "hangs", "--torchexport-time-limit=8").assert_outcomes(failed=1)
    ((hung,),) = verdicts().values()
    assert (after.isolated, after.kept) == (False, "")
    assert (crashed.failure, crashed.isolated) == ("ArtifactCrashed", True)
    assert crashed.recipe is not None
    assert hung.failure == "ArtifactHung"
    assert "no return within 4 s (a part of torchexport_time_limit" in hung.reason
    assert "for ever" in hung.output
    assert "x=float32[" in hung.call + "".join(hung.details)
    for verdict in (crashed, hung):
        _is_kept(pytester.path / verdict.kept)


def _is_kept(path):
    """The very file, whole."""
    assert path.is_file()
    assert "-> Tensor:" in torch.jit.load(path).code


# -- how it is asked for ---------------------------------------------------------------------------


def test_isolation_is_asked_for_by_a_setting(suite, run, verdicts):
    suite(
        "@pytest.mark.torchexport('trace')\ndef test_net(): nn.Linear(3, 2)(torch.ones(2, 3))\n",
        fakes=False,
        torchexport_isolate="true",
    )
    run("-v", REPORT).assert_outcomes(passed=1)
    ((verdict,),) = verdicts().values()
    assert verdict.isolated
    assert any("(torchexport_isolate)" in note for note in verdict.notes)


# -- after a crash of the session ------------------------------------------------------------------

# A stand-in for a call that kills the interpreter, and that nobody made in the clean process before.
KILLER = """
import os, pathlib, signal
from pytest_torchexport.judge.runner import InProcess

plain = InProcess.run

def run(self, call, seed):
    if pathlib.Path("armed").exists() and len(call.args[0]) > 2:
        os.kill(os.getpid(), signal.SIGNAL)
    return plain(self, call, seed)

InProcess.run = run
"""
NET = """
@pytest.mark.torchexport('trace')
def test_net(): nn.Linear(3, 2)(torch.ones(2, 3))

@pytest.mark.torchexport('trace', shapes={'input': '2 3'})
def test_other(): nn.Linear(3, 2)(torch.ones(2, 3))
"""


@slow
def test_an_item_that_killed_the_session_is_isolated_in_the_next(
    suite, run_apart, pytester, verdicts, own_tmp
):
    suite(NET, fakes=False)
    pytester.makeconftest(KILLER.replace("SIGNAL", "SIGSEGV"))
    armed = pytester.path / "armed"
    armed.touch()
    assert run_apart(REPORT).ret == -signal.SIGSEGV
    assert left_behind(own_tmp) == []
    run_apart(REPORT).assert_outcomes(passed=2)
    (net,), (other,) = verdicts().values()
    assert net.isolated
    assert (
        "isolated: every call of the artifact is made in a process of its own "
        "(a run ended while the item ran (20"
    ) in " ".join(net.notes)
    assert not other.isolated
    armed.unlink()
    run_apart(REPORT, "--cache-clear").assert_outcomes(passed=2)
    assert not any(verdict.isolated for (verdict,) in verdicts().values())


# -- interrupted -----------------------------------------------------------------------------------


def started(pytester):
    command = [sys.executable, "-m", "pytest", "-p", "no:jaxtyping", "-q"]
    # A process group of its own, as a shell gives one: Ctrl-C goes to all of it.
    return subprocess.Popen(
        command,
        cwd=pytester.path,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_output(own_tmp, process):
    """Until something in the clean process has printed."""
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # a directory may go while it is looked into
            if any(file.stat().st_size for file in own_tmp.glob("torchexport-*/*/*.output")):
                return
        time.sleep(0.05)
    pytest.fail(process.stdout.read())


@pytest.mark.parametrize(
    "sent",
    [signal.SIGINT, *(pytest.param(s, marks=slow) for s in (signal.SIGTERM, signal.SIGKILL))],
)
def test_whoever_ends_the_session_ends_all_of_it(suite, pytester, own_tmp, sent):
    suite(HANGS, fakes=False, torchexport_time_limit="3000")
    process = started(pytester)
    with process:
        wait_for_output(own_tmp, process)
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == (2 if sent == signal.SIGINT else -sent), said
    assert left_behind(own_tmp) == []
    if sent == signal.SIGINT:
        assert "KeyboardInterrupt" in said
