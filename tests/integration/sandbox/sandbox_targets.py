"""Targets for the clean process, each of which loads a file in its own bad way."""

# ruff: noqa: ARG005  # a bad artifact ignores what it is given

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from pytest_torchexport.outcomes import cuda
from pytest_torchexport.targets import TargetTraits


class Loads:
    """A target whose ``load`` is a function of the file's text."""

    traits = TargetTraits()

    def __init__(self, load):
        self._load = load

    def load(self, path, device):
        return self._load(Path(path).read_text())


def _add(text):
    number = float(text)
    return lambda x, **kwargs: {"y": x + number, "kwargs": kwargs}


def _crash(text):
    print("last words of the artifact")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGSEGV)


def _raises(text):
    raise ValueError(f"cannot load {text}")


def _tries(text):
    """Return a call that tells what becomes of things that a process may want to do."""
    elsewhere = Path(text)
    attempts = {
        "network": lambda: socket.create_connection(("127.0.0.1", 9), 1),
        "name": lambda: socket.getaddrinfo("example.org", 80),
        "program": lambda: subprocess.run([sys.executable, "--version"], check=True),
        "shell": lambda: os.system("true"),
        "fork": os.fork,
        "write": lambda: elsewhere.write_text("PWNED"),
        "signal": lambda: os.kill(os.getppid(), 0),
        "group": lambda: os.killpg(os.getpgid(0), 0),
        "database": lambda: sqlite3.connect(elsewhere),
        "temporary": lambda: tempfile.NamedTemporaryFile().close(),
        "write at home": lambda: Path("mine").write_text("fine"),
        "read": lambda: os.close(os.open(sys.executable, os.O_RDONLY)),
        "database in memory": lambda: sqlite3.connect(":memory:").close(),
        "database at home": lambda: sqlite3.connect("mine.db").close(),
        "own tree": _own_tree,
        "unpickle": lambda: pickle.loads(pickle.dumps(Path)),
    }

    def said(attempt):
        try:
            attempt()
        except PermissionError as error:
            return str(error)
        return ""

    return lambda x: {name: said(attempt) for name, attempt in attempts.items()}


def _own_tree():
    Path("tree/below").mkdir(parents=True)
    Path("tree/link").symlink_to(sys.executable)
    Path("tree/below/file").write_text("x")
    Path("tree/below/file").chmod(0o600)
    shutil.rmtree("tree")


def _allocates(x):
    kept = []
    while True:
        kept.append(torch.ones(2**24))


def _prints(x):
    while True:
        print("x" * 2**20)


def _says_nonsense(text):
    """Speaks in the place of the child: to every socket it finds."""
    data = {
        "no frame": b"\xff" * 64,
        "closed": b"",
        "not json": (4).to_bytes(8) + bytes(8) + b"nope",
    }[text]
    for descriptor in range(3, 64):
        try:
            other = socket.socket(fileno=descriptor)
        except OSError:
            continue
        other.sendall(data) if data else other.shutdown(socket.SHUT_RDWR)
        other.detach()
    time.sleep(600)


def _no_cuda(x):
    cuda._lost.append("CUDA error: device-side assert triggered")
    raise RuntimeError("CUDA error: device-side assert triggered")


class Large(torch.nn.Module):
    """Has tensors of more than a megabyte, and writes to all but one of them."""

    def __init__(self):
        super().__init__()
        self.read, self.written = (torch.nn.Parameter(torch.zeros(300_000)) for _ in range(2))
        self.register_buffer("counted", torch.zeros(300_000))

    def forward(self, x):
        self.written.add_(1)
        self.counted.data.add_(1)  # which leaves no trace in the version
        return x + self.read[0]


class Stateful:
    """Something whose module counts its calls."""

    def __init__(self):
        self.module = torch.nn.Module()
        self.module.register_buffer("count", torch.zeros(()))

    def __call__(self, x):
        self.module.count += 1
        x += 1
        return self.module.count.clone()


ADD = Loads(_add)
LAYOUT = Loads(lambda text: lambda x, y: {"strides": list(x.stride()), "x": x})
CRASH = Loads(_crash)
CRASH_IN_CALL = Loads(lambda text: lambda x: _crash(text))
NULL = Loads(lambda text: lambda x: ctypes.string_at(0))
IMPORTS = Loads(__import__)
HANG = Loads(lambda text: time.sleep(600))
HANG_IN_CALL = Loads(lambda text: lambda x: time.sleep(600))
RAISES = Loads(_raises)
OBJECT = Loads(lambda text: lambda x: object())
EXITS = Loads(lambda text: sys.exit(3))
EXITS_AT_ONCE = Loads(lambda text: lambda x: os._exit(3))
ENVIRONMENT = Loads(lambda text: lambda x: {"cwd": str(Path.cwd()), **os.environ})
TRIES = Loads(_tries)
ALLOCATES = Loads(lambda text: _allocates)
PRINTS = Loads(lambda text: _prints)
NONSENSE = Loads(_says_nonsense)
LARGE = Loads(lambda text: Large())
STATEFUL = Loads(lambda text: Stateful())
NO_CUDA = Loads(lambda text: _no_cuda)


# -- native code ----------------------------------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)
SHARED_MEMORY = 2**20


def _native(text):
    """Return the results of what native code tries, past every audit event: one on each line."""
    attempts = {
        "fork": lambda _: LIBC.fork(),
        "vfork": lambda _: LIBC.vfork(),
        "shared": lambda _: LIBC.shmget(0, SHARED_MEMORY, 0o1600),
        "memfd": lambda _: LIBC.memfd_create(b"x", 0),
        "anonymous": lambda _: LIBC.mmap(
            None, SHARED_MEMORY, 3, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, -1, 0
        ),
        "socket": lambda _: LIBC.socket(socket.AF_INET, socket.SOCK_DGRAM, 0),
        "kill": lambda pid: LIBC.kill(int(pid), 0),
        "session": lambda _: LIBC.setsid(),
        "outlive": lambda _: LIBC.prctl(1, 0, 0, 0, 0),
        "read": lambda path: LIBC.open(os.fsencode(path), os.O_RDONLY),
        "create": lambda path: LIBC.creat(os.fsencode(path), 0o600),
        "attach": lambda pid: LIBC.ptrace(16, int(pid), None, None),
    }
    wanted = [line.partition(" ") for line in text.splitlines()]
    return lambda x: [attempts[what](detail) for what, _, detail in wanted]


def _threads(text):
    """Work in threads of Python and of torch."""

    def call(x):
        found = []
        thread = threading.Thread(
            target=lambda: found.append(torch.ones(300, 300) @ torch.ones(300, 300))
        )
        thread.start()
        thread.join()
        torch.set_num_threads(2)
        return found[0].sum() + torch.ones(2**20).sum()

    return call


def _many_files(text):
    """Fill the disk with files that are small each; those that are removed are held open."""

    def call(x):
        held = []
        for number in range(64):
            path = Path(f"part{number}")
            file = path.open("wb")  # held open
            file.write(bytes(2**24))
            file.flush()
            if text == "removed":
                path.unlink()
            held.append(file)
        time.sleep(600)

    return call


NATIVE = Loads(_native)
THREADS = Loads(_threads)
MANY_FILES = Loads(_many_files)
