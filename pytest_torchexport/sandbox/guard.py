"""What a child of a clean process must not have: the user's packages, the network, other programs, files
outside its directory, code in pickles, memory and output without end.

Python's own audit events, the kernel's limits, and Landlock where the kernel has it: the events do not see native code,
nor what ``os.open`` is told of ``dir_fd``, nor ``os.mkfifo``. It is no jail: code that an artifact brings along can still read what the user
can read; what it cannot find is a credential. Free of torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_torchexport.sandbox import landlock

# What an artifact may print, and write to files, in bytes.
OUTPUT_LIMIT = 64 * 2**20

# https://docs.python.org/3/library/audit_events.html
_NETWORK = frozenset(
    {
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyaddr",
        "socket.gethostbyname",
        "socket.sendto",
        "socket.sendmsg",
    }
)
_PROGRAMS = frozenset(
    {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn"}
)


@dataclass(frozen=True)
class _Path:
    """Which arguments of an event are a path that is changed and the directory that it begins at (``dir_fd``); and
    whether it is what a link leads to that is changed.
    """

    path: int
    directory: int | None = None
    followed: bool = False


# A link to a file is another way to write to it.
_CHANGES = {
    "os.chmod": (_Path(0, 2, followed=True),),
    "os.chown": (_Path(0, 3, followed=True),),
    "os.link": (_Path(0, 2, followed=True), _Path(1, 3)),
    "os.mkdir": (_Path(0, 2),),
    "os.remove": (_Path(0, 1),),
    "os.removexattr": (_Path(0, followed=True),),
    "os.rename": (_Path(0, 2), _Path(1, 3)),
    "os.rmdir": (_Path(0, 1),),
    "os.setxattr": (_Path(0, followed=True),),
    "os.symlink": (_Path(1, 2),),
    "os.truncate": (_Path(0, followed=True),),
    "os.utime": (_Path(0, 3, followed=True),),
    "shutil.rmtree": (_Path(0, 1),),
}
# PR_SET_PDEATHSIG: https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html
_PARENT_DEATH_SIGNAL = 1


class Blocker(importlib.abc.MetaPathFinder):
    """Makes packages look as if they were not installed, but for those that serving imports: these are found
    even where only the test session has them on its path.
    """

    def __init__(self, blocked: Sequence[str], served: Mapping[str, str | None]) -> None:
        self._served = {name.partition(".")[0]: path for name, path in served.items()}
        self._blocked = frozenset(blocked) - self._served.keys()

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Refuse the blocked ones; leave all others to the next finder."""
        if fullname.partition(".")[0] in self._blocked:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        directory = self._served.get(fullname)
        if directory is None:
            return None
        return importlib.machinery.PathFinder.find_spec(fullname, [directory])


def die_with_parent() -> None:
    """Be killed where the server is, also inside native code. Linux only; elsewhere the server ends its
    children when it ends itself.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def limit(memory: int | None) -> None:
    """Let the kernel end what writes or allocates without end. ``memory`` in bytes counts what the process
    can write to: files mapped into memory and addresses only reserved (CUDA) do not count.
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


def is_exhausted(text: str) -> bool:
    """Whether an exception says that there is no memory left, in Python's, torch's or C++'s words."""
    words = (
        "MemoryError",
        "allocate memory",
        "bad_alloc",
        "bad allocation",
        "not enough memory",
    )
    return any(word in text for word in words)


def forbid(home: Path, *, trusted: bool) -> bool:
    """From now on, refuse network, other programs, signals to others and changing files outside ``home``; and unless
    the file is ``trusted``, every class or function that a pickle wants to name. There are other ways to hide code in
    a file, so the kernel is asked too: False where it does not help.
    """
    own, places, pid = _Own(home), _Places(), os.getpid()
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _NETWORK:
            raise PermissionError(f"{event}: there is no network in the clean process")
        if event in _PROGRAMS or event == "subprocess.Popen":
            raise PermissionError(f"{event}: the clean process starts no other program")
        if event == "os.killpg" or (event == "os.kill" and args[0] != pid):
            raise PermissionError(f"{event}: the clean process signals nobody else")
        if event == "pickle.find_class":
            named = f"{args[0]}.{args[1]}"
            if not trusted:
                raise PermissionError(
                    f"the file holds a pickle that names {named}: loading it would run code. Of a .pt2, the example "
                    "inputs may hold it: program.example_inputs = None before torch.export.save leaves them out"
                )
            _named.setdefault(named)
        if event == "open" and not isinstance(args[0], int) and _writes(args, writing):
            own.check(places.of(args[0], None, followed=True))
        if event == "sqlite3.connect":
            own.check(places.of_database(args[0]))
        for change in _CHANGES.get(event, ()):
            number = change.directory
            directory = args[number] if number is not None and number < len(args) else None
            own.check(places.of(args[change.path], directory, followed=change.followed))

    sys.addaudithook(hook)
    return landlock.confine(home)


class _Own:
    """What may be changed: a directory and what is below it, and the device that forgets."""

    def __init__(self, home: Path) -> None:
        self._join = os.path.join  # kept: an artifact could put something else there
        self._root = self._join(os.path.realpath(home), "")

    def check(self, path: str) -> None:
        if path != os.devnull and not self._join(path, "").startswith(self._root):
            raise PermissionError(f"{path}: the clean process writes in its own directory only")


class _Places:
    """Where paths lead. What is asked of modules is kept: an artifact could put something else there."""

    def __init__(self) -> None:
        self._real, self._join, self._split = os.path.realpath, os.path.join, os.path.split
        self._text, self._link = os.fsdecode, os.readlink

    def of(self, path: Any, directory: Any, *, followed: bool) -> str:
        """The place of a path below an open directory, or of an open file."""
        if isinstance(path, int):
            return self._open(path)
        relative = isinstance(directory, int) and directory >= 0
        whole = (
            self._join(self._open(directory), self._text(path)) if relative else self._text(path)
        )
        above, name = self._split(whole)
        if followed or name in ("", ".", ".."):
            return self._real(whole)
        return self._join(self._real(above), name)

    def of_database(self, name: Any) -> str:
        """As SQLite reads it: some names are no files, and what looks like an URI may lead anywhere."""
        text = self._text(name)
        if text in ("", ":memory:"):
            return os.devnull
        return text if text.startswith("file:") else self._real(text)

    def _open(self, descriptor: int) -> str:
        """Where the system does not tell what is open, that is nowhere."""
        try:
            return self._link(f"/proc/self/fd/{descriptor}")
        except OSError:
            return f"descriptor {descriptor}"


def named_by_pickles() -> list[str]:
    """The classes and functions that pickles have named since: those that ``weights_only`` does not load."""
    return list(_named)


_named: dict[str, None] = {}


def _writes(args: tuple[Any, ...], writing: int) -> bool:
    mode, flags = args[1], args[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & writing)


def deaf_to_the_terminal() -> None:
    """Ctrl-C in the terminal is the test session's, which ends its children itself."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
