"""Landlock: the Linux kernel limits where a process writes, native code included.

Separate because it calls the kernel by number
(https://docs.kernel.org/userspace-api/landlock.html): glibc has no names for it. Free of torch.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _BENEATH = 1, 1
_NO_NEW_PRIVILEGES = 38

# What can be done to files; a bit that the kernel does not know yet makes the call fail.
_EXECUTE, _WRITE_FILE = 1 << 0, 1 << 1
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_ANY_TCP, _ANY_SCOPE = 0b11, 0b11
_NETWORK_SINCE = 4
# Landlock limits signals to other processes since this version.
SCOPE_SINCE = 6


def version() -> int:
    """Return the version of Landlock that the kernel has; below 1 if it has none."""
    return _call(_CREATE_RULESET, None, 0, _VERSION) if sys.platform == "linux" else -1


def confine(home: Path) -> bool:
    """Confine this process and all its later threads, for good. Returns False if the kernel cannot.

    It may write below ``home`` only, start no program, open no TCP connection and, if the kernel's
    version knows these, signal no other process.
    """
    number = version()
    if number < 1:
        return False
    changing = _WRITE_FILE | _REMOVE_AND_MAKE
    changing |= (_REFER if number >= 2 else 0) | (_TRUNCATE if number >= 3 else 0)
    attributes = struct.pack(
        "=QQQ",
        changing | _EXECUTE,
        _ANY_TCP if number >= _NETWORK_SINCE else 0,
        _ANY_SCOPE if number >= SCOPE_SINCE else 0,
    )
    known = 8 * (1 + (number >= _NETWORK_SINCE) + (number >= SCOPE_SINCE))
    rules = _call(_CREATE_RULESET, attributes, known, 0)
    if rules < 0:
        return False
    try:
        _allow(rules, home, changing)
        for device in _devices():
            _allow(rules, device, changing & (_WRITE_FILE | _TRUNCATE))
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        return _call(_RESTRICT_SELF, rules, 0) == 0
    finally:
        os.close(rules)


def _devices() -> Iterator[Path]:
    """Yield the devices that an artifact may write to."""
    yield Path(os.devnull)
    yield from Path("/dev").glob("nvidia*")


def _allow(rules: int, path: Path, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(_ADD_RULE, rules, _BENEATH, struct.pack("=Qi", access, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: int | bytes | None) -> int:
    syscall = ctypes.CDLL(None).syscall
    syscall.restype = ctypes.c_long
    wide = (ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    result: int = syscall(ctypes.c_long(number), *wide)
    return result
