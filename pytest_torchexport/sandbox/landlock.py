"""Landlock: the Linux kernel limits which files a process reads and writes, native code included.

Separate because it calls the kernel by number
(https://docs.kernel.org/userspace-api/landlock.html): glibc has no names for it. Free of torch.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _BENEATH = 1, 1
_NO_NEW_PRIVILEGES = 38

# What can be done to files; a bit that the kernel does not know yet makes the call fail.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIRECTORY = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_MAKE_DEVICES = 1 << 6 | 1 << 11
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_ANY_TCP, _ANY_SCOPE = 0b11, 0b11
_NETWORK_SINCE = 4
# Landlock limits signals to other processes since this version.
SCOPE_SINCE = 6

# What a process reads of the system: its libraries and their settings, and what the processor is.
# /proc is listed entry by entry: there, the environment of other processes lies.
_SYSTEM = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/nvidia",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/opt",
    "/sys",
    "/usr",
)
_PROC = Path("/proc")
_OF_PROC = (
    "cpuinfo",
    "devices",
    "driver",
    "filesystems",
    "loadavg",
    "meminfo",
    "modules",
    "stat",
    "sys",
    "uptime",
    "version",
)
_DEVICES = ("null", "zero", "full", "random", "urandom")


def version() -> int:
    """Return the version of Landlock that the kernel has; below 1 if it has none."""
    return _call(_CREATE_RULESET, None, 0, _VERSION) if sys.platform == "linux" else -1


def confine(home: Path, *, trusted: bool, libraries: Sequence[str] = ()) -> bool:
    """Confine this process and all its later threads, for good. Returns False if the kernel cannot.

    It may write below ``home`` only, start no program, open no TCP connection and, if the kernel's
    version knows these, signal no other process. It may read nothing about other processes. If its
    file is not ``trusted``, it reads no more than ``home``, the system's and the interpreter's
    libraries, and those in ``libraries``.
    """
    number = version()
    if number < 1:
        return False
    reading = _READ_FILE | _READ_DIRECTORY
    changing = _WRITE_FILE | _REMOVE_AND_MAKE
    changing |= (_REFER if number >= 2 else 0) | (_TRUNCATE if number >= 3 else 0)
    attributes = struct.pack(
        "=QQQ",
        changing | _EXECUTE | reading,
        _ANY_TCP if number >= _NETWORK_SINCE else 0,
        _ANY_SCOPE if number >= SCOPE_SINCE else 0,
    )
    known = 8 * (1 + (number >= _NETWORK_SINCE) + (number >= SCOPE_SINCE))
    rules = _call(_CREATE_RULESET, attributes, known, 0)
    if rules < 0:
        return False
    try:
        _allow(rules, home, reading | changing & ~_MAKE_DEVICES)
        for path in (*_about_this_process(), *(_all_but_proc() if trusted else _needed(libraries))):
            _allow(rules, path, reading)
        for device in _devices():
            _allow(rules, device, _READ_FILE | changing & (_WRITE_FILE | _TRUNCATE))
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        return _call(_RESTRICT_SELF, rules, 0) == 0
    finally:
        os.close(rules)


def _devices() -> Iterator[Path]:
    """Yield the devices that an artifact may write to."""
    yield Path(os.devnull)
    yield from Path("/dev").glob("nvidia*")


def _all_but_proc() -> Iterator[Path]:
    """Yield what lies in the root directory, but not what tells about other processes."""
    yield from (path for path in Path("/").iterdir() if path != _PROC)


def _needed(libraries: Sequence[str]) -> Iterator[Path]:
    """Yield the libraries of the system and of this interpreter, and those that are given."""
    yield from map(Path, _SYSTEM)
    yield from (Path("/dev", name) for name in _DEVICES)
    yield from map(Path, {sys.prefix, sys.base_prefix, *sys.path, *libraries} - {"", "/"})
    for directory in {*sys.path, *libraries}:
        yield from _linked(directory)
    yield from map(Path, filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)))
    yield Path(__file__).parents[1]  # it may be in none of these


def _linked(directory: str) -> Iterator[Path]:
    """Yield the packages of a directory that lie elsewhere: rules are for what a link leads to.

    A link is a package as a whole (Nix, Bazel), or each of its files (``uv --link-mode symlink``):
    then they lie in a directory of the package's name.
    """
    for package in _entries(directory):
        if package.is_symlink():
            yield Path(package.path)
        elif package.is_dir():
            links = (file for file in _entries(package.path) if file.is_symlink())
            there = {Path(os.path.realpath(link.path)).parent for link in links}
            yield from (path for path in there if path.name == package.name)


def _entries(directory: str) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a directory. Nothing is in one that cannot be read, nor in an archive."""
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except OSError:
        return


def _about_this_process() -> Iterator[Path]:
    """Yield what /proc tells about this process and the machine."""
    yield _PROC / "self"
    yield from (_PROC / name for name in _OF_PROC)


def _allow(rules: int, path: Path, access: int) -> None:
    """Allow what can be done to a path. Nothing is allowed for one that does not exist."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        kind = os.fstat(descriptor).st_mode
        known = access if stat.S_ISDIR(kind) else access & (_READ_FILE | _WRITE_FILE | _TRUNCATE)
        _call(_ADD_RULE, rules, _BENEATH, struct.pack("=Qi", known, descriptor), 0)
    finally:
        if path != _PROC / "self":  # kept open: it may get another inode, of which no rule knows
            os.close(descriptor)


def _call(number: int, *arguments: int | bytes | None) -> int:
    syscall = ctypes.CDLL(None).syscall
    syscall.restype = ctypes.c_long
    wide = (ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    result: int = syscall(ctypes.c_long(number), *wide)
    return result
