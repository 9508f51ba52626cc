"""What a child of a clean process must not have: the user's packages, the network, other programs, files
outside its directory, code in pickles, memory and output without end.

Python's own audit events and the kernel's limits; for a stranger's file also Landlock, where the kernel has it. It
is no jail: code that an artifact brings along can still read what the user can read; what it cannot find is a
credential. Free of torch.
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
# Which of their arguments are paths that are changed. A link to a file is another way to write to it.
_CHANGES = {
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.link": (0, 1),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.utime": (0,),
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
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it; then printing would go on
    for kind, most in ((resource.RLIMIT_FSIZE, OUTPUT_LIMIT), (resource.RLIMIT_DATA, memory)):
        if most is not None:
            _, hard = resource.getrlimit(kind)
            lower = most if hard == resource.RLIM_INFINITY else min(most, hard)
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


def forbid(home: Path, *, pickled_code: bool) -> None:
    """From now on, refuse network, other programs and changing files outside ``home``; and where ``pickled_code`` is
    forbidden, every class or function that a pickle wants to name. That is for a file that may be hostile: there
    are other ways to hide code in one, so the kernel is asked too.
    """
    # Resolved once, and no attribute of a module that the artifact could replace is used later.
    root, real, join, split = os.path.realpath(home), os.path.realpath, os.path.join, os.path.split
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC

    def own(path: str) -> None:
        if path != os.devnull and not join(path, "").startswith(join(root, "")):
            raise PermissionError(f"{path}: the clean process writes in its own directory only")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _NETWORK:
            raise PermissionError(f"{event}: there is no network in the clean process")
        if event in _PROGRAMS or event == "subprocess.Popen":
            raise PermissionError(f"{event}: the clean process starts no other program")
        if event == "pickle.find_class":
            named = f"{args[0]}.{args[1]}"
            if pickled_code:
                raise PermissionError(
                    f"the file holds a pickle that names {named}: loading it would run code. Of a .pt2, the example "
                    "inputs may hold it: program.example_inputs = None before torch.export.save leaves them out"
                )
            _named.setdefault(named)
        if event == "open" and isinstance(args[0], (str, bytes)) and _writes(args, writing):
            own(real(os.fsdecode(args[0])))
        for number in _CHANGES.get(event, ()):
            if not isinstance(args[number], int):
                directory, name = split(os.fsdecode(args[number]))
                own(join(real(directory), name))

    sys.addaudithook(hook)
    if pickled_code:
        landlock.confine(home)


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
