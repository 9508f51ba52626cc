"""Refuse a child the user's packages, the network, other programs, files outside its directory,
code in pickles, and memory and output without end.

By Python's audit events, by the kernel's resource limits, and by Landlock and seccomp if the kernel
has them: audit events do not see native code, nor the ``dir_fd`` of ``os.open``, nor ``os.mkfifo``.
Free of torch.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_torchexport.sandbox import kernel

# How much an artifact may print or write to a file, in bytes.
OUTPUT_LIMIT = 64 * 2**20

# https://docs.python.org/3/library/audit_events.html
_NETWORK = (
    *("socket.bind", "socket.connect", "socket.sendto", "socket.sendmsg"),
    *("socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname"),
)
_PROGRAMS = (
    *("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"),
    *("pty.spawn", "subprocess.Popen"),
)
# The arguments of an event that are a changed path and its directory (``dir_fd``, None: it has no
# such argument), and if the file is changed to which the path leads if it is a link. os.link counts
# as a change of the file: the link is another way to write to it.
_CHANGES: Mapping[str, Sequence[tuple[int, int | None, bool]]] = {
    "os.chmod": [(0, 2, True)],
    "os.chown": [(0, 3, True)],
    "os.link": [(0, 2, True), (1, 3, False)],
    "os.mkdir": [(0, 2, False)],
    "os.remove": [(0, 1, False)],
    "os.removexattr": [(0, None, True)],
    "os.rename": [(0, 2, False), (1, 3, False)],
    "os.rmdir": [(0, 1, False)],
    "os.setxattr": [(0, None, True)],
    "os.symlink": [(1, 2, False)],
    "os.truncate": [(0, None, True)],
    "os.utime": [(0, 3, True)],
    "shutil.rmtree": [(0, 1, False)],
}


class Blocker(importlib.abc.MetaPathFinder):
    """Makes packages look as if they were not installed.

    ``served`` are the modules that serving imports, each with the directory in which the test
    session finds it: they are not blocked, and found even if only the session has that directory
    on its path.
    """

    def __init__(self, blocked: Sequence[str], served: Mapping[str, str | None]) -> None:
        self._served = {name.partition(".")[0]: path for name, path in served.items()}
        self._blocked = frozenset(blocked) - self._served.keys()

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] in self._blocked:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        directory = self._served.get(fullname)
        if directory is None:
            return None
        return importlib.machinery.PathFinder.find_spec(fullname, [directory])


def limit(memory: int | None) -> None:
    """Have the kernel end this process if it writes or allocates without end.

    ``memory`` in bytes counts memory that the process can write to, not files mapped into memory
    and not addresses that are only reserved (as CUDA does). None is no limit.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it; then printing would go on
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: OUTPUT_LIMIT,
        resource.RLIMIT_DATA: memory,
    }
    for kind, most in limits.items():
        there = [bound for bound in resource.getrlimit(kind) if bound != resource.RLIM_INFINITY]
        if most is not None:
            lower = min(most, *there) if there else most
            # Some systems know a limit and do not let it be set.
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (lower, lower))


def forbid(
    home: Path,
    *,
    trusted: bool,
    admitted: Container[str] = (),
    device: str = "cpu",
    libraries: Sequence[str] = (),
) -> tuple[bool, list[str]]:
    """Refuse, from now on, network, programs, signals to others and changes outside of ``home``.

    If the file is not ``trusted``, a pickle may not name any class or function either but those
    ``admitted``, and only ``home``, ``libraries`` and the libraries of the system are read. There
    are ways to hide code that audit events do not see, so the kernel is asked too. Returns if it
    holds native code, and a list that grows by each class or function that a pickle names, which
    ``weights_only`` would not load.
    """
    hook = _Hook(home, trusted=trusted, admitted=admitted)
    sys.addaudithook(hook)
    files = kernel.limit_files(home, trusted=trusted, libraries=libraries)
    return kernel.limit_calls(device) and files, hook.pickled


class _Hook:
    """The audit hook. It cannot be removed again.

    It keeps the functions that it needs: an artifact could put others in ``os``.
    """

    def __init__(self, home: Path, *, trusted: bool, admitted: Container[str]) -> None:
        self.pickled: list[str] = []
        self._admitted = admitted
        self._trusted = trusted
        self._pid = os.getpid()
        self._refused = {
            **dict.fromkeys(_NETWORK, "there is no network in the clean process"),
            **dict.fromkeys(_PROGRAMS, "the clean process starts no other program"),
            **dict.fromkeys(("os.kill", "os.killpg"), "the clean process signals nobody else"),
        }
        self._writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
        self._real, self._join, self._split = os.path.realpath, os.path.join, os.path.split
        self._text, self._link, self._null = os.fsdecode, os.readlink, os.devnull
        self._root = self._join(self._real(home), "")

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event in self._refused and not (event == "os.kill" and args[0] == self._pid):
            raise PermissionError(f"{event}: {self._refused[event]}")
        name = f"{args[0]}.{args[1]}" if event == "pickle.find_class" else None
        if name is not None and name not in self._admitted:
            if not self._trusted:
                raise PermissionError(
                    f"the file holds a pickle that names {name}: loading it would run code. Of a "
                    ".pt2, the example inputs may hold it: program.example_inputs = None before "
                    "torch.export.save leaves them out"
                )
            if name not in self.pickled:
                self.pickled.append(name)
        for path in self._changed(event, args):
            if path != self._null and not self._join(path, "").startswith(self._root):
                raise PermissionError(f"{path}: the clean process writes in its own directory only")

    def _changed(self, event: str, args: tuple[Any, ...]) -> Iterator[str]:
        if event == "open" and not isinstance(args[0], int):
            mode, flags = args[1], args[2]
            writes = isinstance(flags, int) and bool(flags & self._writing)
            if any(x in mode for x in "wax+") if isinstance(mode, str) else writes:
                yield self._place(args[0], None, followed=True)
        elif event == "sqlite3.connect":
            name = self._text(args[0])
            # Some names are no files; a URI is refused.
            if name not in ("", ":memory:"):
                yield name if name.startswith("file:") else self._real(name)
        for number, below, followed in _CHANGES.get(event, ()):
            directory = args[below] if below is not None and below < len(args) else None
            yield self._place(args[number], directory, followed=followed)

    def _place(self, path: Any, directory: Any, *, followed: bool) -> str:
        """Return the real path of ``path`` below an open directory, or of an open file."""
        if isinstance(path, int):
            return self._of_descriptor(path)
        whole = self._text(path)
        if isinstance(directory, int) and directory >= 0:
            whole = self._join(self._of_descriptor(directory), whole)
        above, name = self._split(whole)
        if followed or name in ("", ".", ".."):
            return self._real(whole)
        return self._join(self._real(above), name)

    def _of_descriptor(self, descriptor: int) -> str:
        """Return the path of an open file, or what is no path if the system does not say."""
        try:
            return self._link(f"/proc/self/fd/{descriptor}")
        except OSError:
            return f"descriptor {descriptor}"


def ignore_interrupts() -> None:
    """Ignore Ctrl-C in the terminal: it is for the test session, which ends its children itself."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


# How much a child may write besides the files that were there, in bytes.
DISK_LIMIT = 256 * 2**20


def size_of(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += Path(folder, name).lstat().st_blocks * 512
    return total


def written_by(pid: int) -> int:
    """Return the bytes that a process has written to disks and not taken back; 0 if unknown."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    counted = {name: int(number) for name, _, number in (line.partition(": ") for line in lines)}
    return counted.get("write_bytes", 0) - counted.get("cancelled_write_bytes", 0)
