"""Artifacts that crash, hang, or take all there is: what a user sees, and that the run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from slow import slow

from pytest_torchexport.results.verdict import Verdict

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="signals and /proc as Linux has them"
)

MODELS = '''
class Reads(nn.Module):
    """Lengths that torch is told not to check: SIGSEGV."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting() and x.size(0) > 2:
            print("about to read")
            beyond = torch.full([1], 1 << 38, dtype=torch.int64)
            return x + torch.segment_reduce(x.flatten(), "sum", lengths=beyond, unsafe=True)
        return x * 2


class ReadsAtOnce(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            beyond = torch.full([1], 1 << 38, dtype=torch.int64)
            return x + torch.segment_reduce(x.flatten(), "sum", lengths=beyond, unsafe=True)
        return x * 2


class Allocates(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting() and x.size(0) > 2:
            print("about to allocate")
            return x + torch.ones([1024, 1024, 1024, 1024]).sum()
        return x * 2


class Hangs(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting() and x.size(0) > 2:
            print("for ever")
            while x.size(0) > 2:
                x = x * 1.0
        return x * 2


class Chatters(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while torch.jit.is_scripting() and x.size(0) > 2:
            print("a line of a log that nobody has asked for, and that no disk is large enough for")
        return x * 2


class Healthy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("hello")
        return x * 2
'''

HEAD = """
@pytest.mark.torchexport('script', shapes={'x': 'batch 3'})
"""
EACH = """
def test_reads(): Reads()(torch.ones(2, 3))
def test_reads_at_once(): ReadsAtOnce()(torch.ones(2, 3))
def test_allocates(): Allocates()(torch.ones(2, 3))
def test_hangs(): Hangs()(torch.ones(2, 3))
def test_after(): Healthy()(torch.ones(2, 3))
"""
SUITE = MODELS + re.sub("^def ", HEAD.strip() + "\ndef ", EACH, flags=re.MULTILINE)
LIMITS = {"torchexport_time_limit": "15", "torchexport_memory_limit": "1024"}


def only(name, **limits):
    """A suite of one model, and its limits."""
    return f"{MODELS}{HEAD}def test_net(): {name}()(torch.ones(2, 3))\n", LIMITS | limits


@pytest.fixture
def verdicts(pytester):
    """The verdicts that a run wrote, by test."""

    def read():
        items = json.loads((pytester.path / "out.json").read_text())["items"]
        return {
            item["nodeid"].partition("::")[2].partition("[")[0]: Verdict.from_dict(verdict)
            for item in items
            for verdict in item["verdicts"]
        }

    return read


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
    """Return what a session that is over has left, when those who clean up after it have had their time."""
    end = time.monotonic() + 30
    while True:
        left = [*processes_below(path), *(file.name for file in path.glob("torchexport-*"))]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)


# -- what a user sees ------------------------------------------------------------------------------


def stable(text, model):
    """The report of one model, without what differs from machine to machine. An artifact that is loaded again prints
    again: each line once. How many calls are drawn depends on Hypothesis's version.
    """
    start = (
        text.rindex("\nArtifactCrashed: ", 0, text.index(f"  subject  {model} on script-cpu")) + 1
    )
    report = text[start : text.index("  rerun", start)].rstrip()
    report = re.sub(r"\[enforce fail at .*", "...", report)
    report = re.sub(r"of \d+ calls fail", "of N calls fail", report)
    report = re.sub(r"\d+ lines with -v", "N lines with -v", report)
    head, _, rest = report.partition("  printed  ")
    printed, _, tail = rest.partition("\n  call")
    lines = f"\n{' ' * 11}".join(dict.fromkeys(line.strip() for line in printed.splitlines()))
    return f"{head}  printed  {lines}\n  call{tail}\n"


REPORT_HEAD = """\
ArtifactCrashed: {headline}

  subject  {model} on script-cpu: the artifact killed its interpreter
  reason   {reason}
  printed  {printed}
  call     x=float32[3, 3] zeros   shrunk; 3 of N calls fail
  sizes    batch: fails from 3 up (run at 1 to 4; the example's is 2)
"""
REPORT_TAIL = """\
  script   .torchexport/test_it.py-{test}-script-cpu/reproduce.py
  more     N lines with -v: {more}
"""
CAUSE = (
    "torch.jit.is_scripting() is True on script, and eager gets there only with this answer: "
    "aten.segment_reduce ends the process by SIGSEGV"
)
CRASH = {
    "test": "test_reads",
    "model": "Reads",
    "reason": "it was killed by SIGSEGV",
    "headline": f"aten.segment_reduce at test_it.py:11: {CAUSE}",
    "printed": "about to read",
    "more": "printed, assumed, note",
}
CRASH_TEXT = f"""{REPORT_HEAD}\
  where    test_it.py:8  if torch.jit.is_scripting() and x.size(0) > 2:
  owner    model, in aten.segment_reduce
  cause    {CAUSE}
  remedy   write on both sides what eager runs there; the question is for what changes no result, as a check or a log
  assumed  dim 0 of x is 'batch', 1..4
{REPORT_TAIL}"""
ASKED = (
    "torch.jit.is_scripting() is True on script, and eager gets there only with this answer: "
    "the call ends there"
)
EXHAUSTED = "it exhausted its memory limit of 1024 MB (torchexport_memory_limit): ..."
LIMIT = {
    "test": "test_allocates",
    "model": "Allocates",
    "reason": EXHAUSTED,
    "headline": f"{ASKED} (test_it.py:25)",
    "printed": "about to allocate",
    "more": "printed, assumed, note, untried",
}
LIMIT_TEXT = f"""{REPORT_HEAD}\
  where    test_it.py:25  if torch.jit.is_scripting() and x.size(0) > 2:
  owner    model
  cause    {ASKED}
  remedy   write on both sides what eager runs there; the question is for what changes no result, as a check or a log
  assumed  dim 0 of x is 'batch', 1..4
{REPORT_TAIL}"""


def test_what_does_not_survive_fails_its_item_and_the_run_goes_on(
    suite, run, pytester, verdicts, text_of
):
    suite(SUITE, fakes=False, **LIMITS)
    result = run(REPORT)
    result.assert_outcomes(failed=4, passed=1)
    text = text_of(result)
    assert stable(text, CRASH["model"]) == CRASH_TEXT.format(**CRASH)
    assert stable(text, LIMIT["model"]) == LIMIT_TEXT.format(**LIMIT)
    found = verdicts()
    assert [found[name].failure for name in sorted(found)] == [
        None,  # after
        "ArtifactCrashed",  # allocates
        "ArtifactHung",
        "ArtifactCrashed",
        "ArtifactCrashed",
    ]
    assert not found["test_after"].isolated
    assert found["test_after"].kept == ""
    for name in ("test_reads", "test_reads_at_once", "test_allocates"):
        assert found[name].isolated
        assert found[name].recipe is not None
        _is_kept(pytester.path / found[name].kept)
    hung = found["test_hangs"]
    assert "no return within 7.5 s (a part of torchexport_time_limit" in hung.reason
    assert "for ever" in hung.output
    assert "x=float32[" in hung.call + "".join(hung.details)
    _is_kept(pytester.path / hung.kept)


def _is_kept(path):
    """The very file, whole."""
    assert path.is_file()
    assert "-> Tensor:" in torch.jit.load(path).code


OPS = """
import os, signal, time, torch

# In the process of the tests it is tame.
WILD = "PYTEST_VERSION" not in os.environ

@torch.library.custom_op("rude_ops::act", mutates_args=())
def act(x: torch.Tensor, what: str) -> torch.Tensor:
    if WILD:
        print("now", what, flush=True)
        {
            "abort": os.abort,
            "exit": lambda: os._exit(3),
            "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "no memory": lambda: bytearray(2**50),
        }[what]()
        time.sleep(600)
    return x * 2

@act.register_fake
def _(x, what):
    return torch.empty_like(x)
"""


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("abort", "it was killed by SIGABRT"),
        ("exit", "it ended its process with exit status 3"),
        ("kill", "it was killed by SIGKILL (by the system, out of memory, or by somebody)"),
        ("no memory", "it exhausted its memory limit of 1024 MB (torchexport_memory_limit)"),
    ],
)
def test_however_it_ends_it_is_told(suite, run, pytester, verdicts, what, said):
    pytester.makepyfile(rude_ops=OPS)
    suite(
        "import rude_ops\n"
        "class Acts(nn.Module):\n"
        f"    def forward(self, x): return torch.ops.rude_ops.act(x, {what!r})\n"
        "@pytest.mark.torchexport('trace')\n"
        "def test_net(): Acts()(torch.ones(2, 3))\n"
        "@pytest.mark.torchexport('trace')\n"
        "def test_after(): nn.Linear(3, 2)(torch.ones(2, 3))\n",
        fakes=False,
        **LIMITS,
        torchexport_runtime_imports="rude_ops",
    )
    run(REPORT).assert_outcomes(failed=1, passed=1)
    found = verdicts()
    assert found["test_net"].failure == "ArtifactCrashed"
    assert said in found["test_net"].reason
    assert f"now {what}" in found["test_net"].output
    assert (pytester.path / found["test_net"].kept).is_file()
    assert found["test_after"].status == "passed"


# -- how it is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "ini", "isolated"),
    [
        ((), {}, False),
        (("--torchexport-isolate",), {}, True),
        ((), {"torchexport_isolate": "true"}, True),
        ((), {"torchexport_isolate": "false"}, False),
    ],
    ids=["not", "flag", "ini", "ini says no"],
)
def test_isolation_is_asked_for_by_flag_or_ini(suite, run, verdicts, flags, ini, isolated):
    suite(
        "@pytest.mark.torchexport('trace', 'onnx')\n"
        "def test_net(): nn.Linear(3, 2)(torch.ones(2, 3))\n",
        fakes=False,
        **ini,
    )
    result = run("-v", REPORT, *flags)
    result.assert_outcomes(passed=2)
    verdict = verdicts()["test_net"]
    assert verdict.isolated == isolated
    assert any("(torchexport_isolate)" in note for note in verdict.notes) == isolated


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
    found = verdicts()
    assert found["test_net"].isolated
    assert (
        "isolated: every call of the artifact is made in a process of its own "
        "(a run ended while the item ran (20"
    ) in " ".join(found["test_net"].notes)
    assert not found["test_other"].isolated
    armed.unlink()
    run_apart(REPORT, "--cache-clear").assert_outcomes(passed=2)
    assert not any(verdict.isolated for verdict in verdicts().values())


def test_a_run_that_is_cancelled_marks_no_item(suite, run_apart, pytester):
    suite(
        "import os, signal\n"
        "@pytest.mark.torchexport('mirror')\n"
        "def test_net(torchexport, x):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    assert run_apart().ret == -signal.SIGTERM
    marks = pytester.path / ".pytest_cache" / "d" / "torchexport-running"
    assert list(marks.iterdir()) == []


# -- interrupted -----------------------------------------------------------------------------------

SLOW_SAVE = """
import time
from pytest_torchexport.targets.base import DirectArtifact

def save(self, directory):
    (directory / "half.output").write_text("half a file")
    time.sleep(600)

DirectArtifact.save = save
"""


def started(pytester, *arguments):
    command = [sys.executable, "-m", "pytest", "-p", "no:jaxtyping", "-q", *arguments]
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
    ("where", "sent"),
    [
        ("call", signal.SIGINT),
        pytest.param("call", signal.SIGTERM, marks=slow),
        pytest.param("call", signal.SIGKILL, marks=slow),
        pytest.param("isolated call", signal.SIGINT, marks=slow),
        pytest.param("save", signal.SIGINT, marks=slow),
        pytest.param("save", signal.SIGTERM, marks=slow),
    ],
)
def test_whoever_ends_the_session_ends_all_of_it(suite, pytester, own_tmp, where, sent):
    body, _ = only("Hangs")
    suite(body, fakes=False, torchexport_time_limit="3000")
    if where == "save":
        pytester.makeconftest(SLOW_SAVE)
    flags = ["--torchexport-isolate"] if where == "isolated call" else []
    process = started(pytester, *flags)
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
