"""What runs inside the clean process: a loop over requests, one forked child per request.

It imports torch and never runs an operation before it forks, so the children start clean. Nothing here
may import the user's code; what the user's model is made of is blocked even where it is installed.
"""

from __future__ import annotations

import importlib
import importlib.abc
import json
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.observe import Raised, Returned, observe, raised
from pytest_torchexport.quiet import quiet
from pytest_torchexport.sandbox import wire
from pytest_torchexport.spec.inputs import Call

OUTPUT_TAIL = 2000
POLL_SECONDS = 0.002


class Blocker(importlib.abc.MetaPathFinder):
    """Makes packages look as if they were not installed."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Refuse the blocked ones; leave all others to the next finder."""
        if fullname.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def main() -> None:
    """Serve requests, a line of JSON each, until stdin ends."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if message["path"].endswith(".pt2"):
            # 1.4 s that every child would pay: torch.export.load needs it (facts: lazy dynamo import).
            importlib.import_module("torch._dynamo")
        reply = _fork(message) if hasattr(os, "fork") else _inline(message)
        replies.write(json.dumps(reply).encode() + b"\n")


def _fork(message: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            _exit_after(message)
        status = _wait(child, message["limit"])
        if status is None:
            return {"status": "hung", "reason": "", "output": _tail(output)}
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            return {"status": "died", "reason": f"killed by {name}", "output": _tail(output)}
        code = os.waitstatus_to_exitcode(status)
        done = code == 0 and Path(message["result"]).exists()
        reason = "" if done else f"exit status {code}"
        return {"status": "done" if done else "died", "reason": reason, "output": _tail(output)}


def _inline(message: dict[str, Any]) -> dict[str, Any]:
    _serve(message)
    return {"status": "done", "reason": "", "output": ""}


def _exit_after(message: dict[str, Any]) -> None:
    code = 1
    try:
        _serve(message)
        code = 0
    except BaseException:
        traceback.print_exc()  # the parent shows the end of what was printed
    finally:
        # Not sys.exit: the interpreter's teardown costs 0.25 s and is the parent's business.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, limit: float) -> int | None:
    """The child's wait status; None where it had to be killed."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(POLL_SECONDS)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _tail(output: Any) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(size - OUTPUT_TAIL, 0))
    return str(output.read().decode(errors="replace"))


def _serve(message: dict[str, Any]) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    args, kwargs = wire.load(Path(message["call"]))
    call = Call(args, kwargs).to(message["device"])
    module, _, attribute = message["target"].partition(":")
    target = getattr(importlib.import_module(module), attribute)
    sys.meta_path.insert(0, Blocker(message["blocked"]))
    try:
        for name in message["imports"]:
            importlib.import_module(name)
        loaded = target.load(Path(message["path"]), message["device"])
    except Exception as error:
        failed = raised(error)
        wire.dump({"load": [failed.type, failed.message]}, Path(message["result"]))
        return
    with quiet(message["device"]):
        runs = [_run(loaded, call, message["seed"]) for _ in range(message["runs"])]
    wire.dump({"runs": runs}, Path(message["result"]))


def _run(loaded: Any, call: Call, seed: int) -> dict[str, Any]:
    outcome = observe(loaded, call, seed=seed)
    if isinstance(outcome, Raised):
        return {"raised": [outcome.type, outcome.message]}
    assert isinstance(outcome, Returned)
    try:
        wire.check(outcome.value)
    except TypeError as error:
        return {"raised": [type(error).__name__, str(error)]}
    return {"value": outcome.value}
