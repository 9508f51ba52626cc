"""The clean process: an interpreter that has never seen the model's code, and loads what was saved.

In-process round trips miss everything that only this process knows: classes, custom ops, pytree types.
A server with torch preloaded forks one child per request, so each load is fresh and costs milliseconds;
where forking does not exist, each request gets an interpreter of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_torchexport.observe import Hung, Outcome, Raised, Returned
from pytest_torchexport.sandbox import wire
from pytest_torchexport.spec.inputs import Call

# Beyond a request's own limit: starting the server, importing torch on a busy machine.
GRACE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """One load in the clean process. ``target`` is ``package.module:attribute``; ``blocked`` are the
    packages that must not be importable there; ``imports`` those that serving imports anyway.
    """

    target: str
    path: Path
    device: str
    call: Call
    seed: int
    runs: int
    limit: float
    blocked: Sequence[str]
    imports: Sequence[str]


@dataclass(frozen=True)
class Died:
    """The child did not answer: killed by a signal, or by its own exit."""

    reason: str
    output: str


@dataclass(frozen=True)
class NotLoaded:
    """Loading itself raised."""

    outcome: Raised


Answer = list[Outcome] | NotLoaded | Died


def warm_up() -> None:
    """Start the server, so that it is ready by the time something has been exported. Does not wait."""
    if hasattr(os, "fork"):
        _Server.shared()


def run_clean(request: Request) -> Answer:
    """Load and run an artifact in the clean process."""
    with tempfile.TemporaryDirectory(prefix="torchexport-") as directory:
        call, result = Path(directory, "call"), Path(directory, "result")
        wire.dump((request.call.args, dict(request.call.kwargs)), call)
        message = {
            "target": request.target,
            "path": str(request.path),
            "device": request.device,
            "call": str(call),
            "result": str(result),
            "seed": request.seed,
            "runs": request.runs,
            "limit": request.limit,
            "blocked": list(request.blocked),
            "imports": list(request.imports),
        }
        server = _Server.shared() if hasattr(os, "fork") else _Server()
        reply = server.ask(message, request.limit + GRACE_SECONDS)
        return _answer(reply, result, request.limit)


def _answer(reply: dict[str, Any], result: Path, limit: float) -> Answer:
    if reply["status"] == "hung":
        return [Hung(limit)]
    if reply["status"] != "done":
        return Died(reply["reason"], reply["output"])
    answer = wire.load(result)
    if "load" in answer:
        return NotLoaded(Raised(*answer["load"]))
    return [
        Raised(*item["raised"]) if "raised" in item else Returned(item["value"], Call())
        for item in answer["runs"]
    ]


class _Server:
    """The server process, its pipes, and how it ends: with us, whatever ends us."""

    _one: _Server | None = None
    _owner: int | None = None

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        code = (
            f"import sys; sys.path.append({root!r}); "
            "from pytest_torchexport.sandbox.server import main; main()"
        )
        self._home = tempfile.TemporaryDirectory(prefix="torchexport-sandbox-")
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and code
            [sys.executable, "-I", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._home.name,
            env=_environment(self._home.name),
        )
        atexit.register(self.close)

    @classmethod
    def shared(cls) -> _Server:
        """The one server of this process, started again where it is gone."""
        gone = cls._one is None or cls._one._process.poll() is not None
        if gone or cls._owner != os.getpid():
            cls._one, cls._owner = cls(), os.getpid()
        assert cls._one is not None
        return cls._one

    def ask(self, message: dict[str, Any], limit: float) -> dict[str, Any]:
        """One request, one reply; a server that does not answer is killed and said to be dead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
            line = _read_line(self._process.stdout, limit)
        except BaseException as error:
            # Its reply may still come: the next request must not read it.
            self.close()
            if not isinstance(error, OSError):
                raise
            return {
                "status": "died",
                "reason": f"the clean process is gone ({error})",
                "output": "",
            }
        if not line:
            code = self._process.wait()
            return {
                "status": "died",
                "reason": f"the clean process ended with {code}",
                "output": "",
            }
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        """End the process and remove its directory."""
        atexit.unregister(self.close)
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._home.cleanup()


def _read_line(pipe: Any, limit: float) -> bytes:
    if hasattr(select, "poll") and not select.select([pipe], [], [], limit)[0]:
        raise TimeoutError(f"no answer within {limit:.0f} s")
    return pipe.readline()  # type: ignore[no-any-return]


def _environment(home: str) -> dict[str, str]:
    """What an interpreter needs to start, and nothing of the user's: no credentials, no paths of modules."""
    kept = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    return environment | {"HOME": home, "TMPDIR": tempfile.gettempdir(), "OMP_NUM_THREADS": "1"}
