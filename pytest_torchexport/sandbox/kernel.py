"""Have the Linux kernel confine this process, native code included: Landlock and seccomp.

Landlock limits which files a process reads and writes. seccomp limits the rest: other processes,
other programs, the network, and memory that no limit counts. Both are called by number, because
glibc has no names for them (https://docs.kernel.org/userspace-api/landlock.html,
https://docs.kernel.org/userspace-api/seccomp_filter.html). Free of torch.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _BENEATH = 1, 1

# What can be done to files; a bit that the kernel does not know yet makes the call fail.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIRECTORY = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_MAKE_DEVICES, _REFER, _TRUNCATE = 1 << 6 | 1 << 11, 1 << 13, 1 << 14
_ANY_TCP, _ANY_SCOPE = 0b11, 0b11
# The versions of Landlock since which it limits the network, and signals to other processes.
_NETWORK_SINCE, SCOPE_SINCE = 4, 6

# What a process reads of the system: its libraries and their settings, and what the processor is.
# /proc is listed entry by entry: there, the environment of other processes lies.
_SYSTEM = (
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/etc/nvidia"),
    *("/lib", "/lib32", "/lib64", "/nix/store", "/opt", "/sys", "/usr"),
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
)
_PROC = Path("/proc")
_OF_PROC = (
    *("self", "cpuinfo", "devices", "driver", "filesystems", "loadavg", "meminfo", "modules"),
    *("stat", "sys", "uptime", "version"),
)


def signal_at_parents_end(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends, even inside native code.

    Linux only. Elsewhere, a process notices that its connection is closed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, number)


def landlock_version() -> int:
    """Return the version of Landlock that the kernel has; below 1 if it has none."""
    return _call(_CREATE_RULESET, None, 0, _VERSION) if sys.platform == "linux" else -1


def limit_files(home: Path, *, trusted: bool, libraries: Sequence[str] = ()) -> bool:
    """Confine this process and all its later threads, for good. Returns False if the kernel cannot.

    It may write below ``home`` only, start no program, open no TCP connection and, if the kernel's
    version knows these, signal no other process. It may read nothing about other processes. If its
    file is not ``trusted``, it reads no more than ``home``, the system's and the interpreter's
    libraries, and those in ``libraries``.
    """
    number = landlock_version()
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
        others = (path for path in Path("/").iterdir() if path != _PROC)
        for path in (*(_PROC / name for name in _OF_PROC), *(others if trusted else ())):
            _allow(rules, path, reading)
        for path in () if trusted else _needed(libraries):
            _allow(rules, path, reading)
        for device in (Path(os.devnull), *Path("/dev").glob("nvidia*")):
            _allow(rules, device, _READ_FILE | changing & (_WRITE_FILE | _TRUNCATE))
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        return _call(_RESTRICT_SELF, rules, 0) == 0
    finally:
        os.close(rules)


def _needed(libraries: Sequence[str]) -> Iterator[Path]:
    """Yield the libraries of the system and of this interpreter, and those that are given."""
    yield from map(Path, _SYSTEM)
    yield from map(Path, {sys.prefix, sys.base_prefix, *sys.path, *libraries} - {"", "/"})
    # Packages of a directory may lie elsewhere, and rules are for what a link leads to. A link is a
    # package as a whole (Nix, Bazel), or each of its files (``uv --link-mode symlink``): then they
    # lie in a directory of the package's name.
    for package in chain.from_iterable(map(_entries, {*sys.path, *libraries})):
        if package.is_symlink():
            yield Path(package.path)
        elif package.is_dir():
            links = (file for file in _entries(package.path) if file.is_symlink())
            there = {Path(os.path.realpath(link.path)).parent for link in links}
            yield from (path for path in there if path.name == package.name)
    yield from map(Path, filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)))
    yield Path(__file__).parents[1]  # it may be in none of these


def _entries(directory: str) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a directory: none if it cannot be read, or is an archive."""
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except OSError:
        return


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


_Numbers = Mapping[str, tuple[int, int | None]]
# The numbers of system calls on x86-64 and aarch64 (None: there is no such call):
# https://github.com/torvalds/linux/tree/master/arch
# Refused: other processes and programs, their memory, IPC that outlives this process, namespaces.
_REFUSED: _Numbers = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "msgget": (68, 186),
    "open_by_handle_at": (304, 265),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "semget": (64, 190),
    "setns": (308, 268),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    "shmget": (29, 194),
    "tkill": (200, 130),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vfork": (58, None),
}
# As if the kernel had no such call, so that libraries go another way: start threads by clone, whose
# flags a filter can read.
_UNKNOWN: _Numbers = {
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
}
# Memory that RLIMIT_DATA does not count. CUDA's driver needs it, and has no such limit.
_UNCOUNTED: _Numbers = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
}
# What is written instead is counted.
_UNSUPPORTED: _Numbers = {"fallocate": (285, 47)}
# Refused with some arguments.
_LOOKED_AT = {
    "clone": (56, 220),
    "kill": (62, 129),
    "mmap": (9, 222),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "seccomp": (317, 277),
    "socket": (41, 198),
    "tgkill": (234, 131),
}


class _Machine(NamedTuple):
    """A processor: its number in filters, its column above, and the first call of another ABI."""

    audit: int
    column: int
    foreign: int = 0


_MACHINES = {
    "x86_64": _Machine(0xC000003E, 0, foreign=0x40000000),
    "aarch64": _Machine(0xC00000B7, 1),
}

# Arguments of calls that are looked at, and all bits of one.
_CLONE_THREAD, _SHARED_ANONYMOUS, _UNIX_SOCKET, _WHOLE = 0x10000, 0x01 | 0x20, 1, 0xFFFFFFFF
# https://man7.org/linux/man-pages/man2/prctl.2.html
_PARENT_DEATH_SIGNAL, _NO_NEW_PRIVILEGES = 1, 38
# https://man7.org/linux/man-pages/man7/capabilities.7.html; files may have another owner than root.
_CAPABILITY_VERSION, _ANY_FILE = 0x20080522, 1 << 1
_SET_FILTER, _ALL_THREADS = 1, 1

# The opcodes of a filter: https://www.kernel.org/doc/Documentation/networking/filter.txt
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_IF_EQUAL, _IF_AT_LEAST = 0x15, 0x35
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16


def limit_calls(device: str) -> bool:
    """Confine this process for good. Returns False if the kernel cannot.

    It may start no process, program or socket, reach no other process, and share no memory. What is
    refused fails with EPERM. On CUDA, memory may be shared and local sockets be opened: the driver
    does both.
    """
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return False
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return False
    program = b"".join(_filter(machine, cuda=device != "cpu"))
    libc = ctypes.CDLL(None)
    # Root keeps what an owner may do with files, and no other power.
    capabilities = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    # Twice 32 bits of the effective, the permitted and the inheritable ones.
    held = ctypes.create_string_buffer(24)
    if libc.capget(capabilities, held) == 0:
        kept = struct.unpack("=6I", held.raw[:24])[1] & _ANY_FILE
        left = ctypes.create_string_buffer(struct.pack("=6I", kept, kept, 0, 0, 0, 0))
        libc.capset(capabilities, left)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    code = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    number = _LOOKED_AT["seccomp"][machine.column]
    return _call(number, _SET_FILTER, _ALL_THREADS, header) == 0


def _filter(machine: _Machine, *, cuda: bool) -> Iterator[bytes]:
    """Yield the instructions of the filter. The first ``return`` that is reached decides."""
    refused = _ERROR | errno.EPERM
    yield _step(_LOAD, _MACHINE)
    yield _step(_IF_EQUAL, machine.audit, 1, 0)
    yield _step(_RETURN, refused)
    yield _step(_LOAD, _NUMBER)
    if machine.foreign:
        yield _step(_IF_AT_LEAST, machine.foreign, 0, 1)
        yield _step(_RETURN, refused)
    for names, error in (
        (_REFUSED, errno.EPERM),
        (_UNKNOWN, errno.ENOSYS),
        ({} if cuda else _UNCOUNTED, errno.ENOSYS),
        (_UNSUPPORTED, errno.EOPNOTSUPP),
    ):
        for numbers in names.values():
            number = numbers[machine.column]
            if number is not None:
                yield _step(_IF_EQUAL, number, 0, 1)
                yield _step(_RETURN, _ERROR | error)
    calls = {name: numbers[machine.column] for name, numbers in _LOOKED_AT.items()}
    only, never = (_ALLOW, refused), (refused, _ALLOW)
    own = os.getpid()
    yield from _if(calls["clone"], 0, _CLONE_THREAD, _CLONE_THREAD, only)
    yield from _if(calls["kill"], 0, _WHOLE, own, only)
    yield from _if(calls["tgkill"], 0, _WHOLE, own, only)
    yield from _if(calls["prlimit64"], 0, _WHOLE, 0, only)
    yield from _if(calls["prctl"], 0, _WHOLE, _PARENT_DEATH_SIGNAL, never)
    yield from _if(calls["socket"], 0, _WHOLE, _UNIX_SOCKET, only if cuda else (refused,) * 2)
    if not cuda:
        yield from _if(calls["mmap"], 3, _SHARED_ANONYMOUS, _SHARED_ANONYMOUS, never)
    yield _step(_RETURN, _ALLOW)


def _if(
    number: int, argument: int, mask: int, value: int, answers: tuple[int, int]
) -> Iterator[bytes]:
    """Yield the answers to a call if the bits of an argument are ``value``, and if they are not."""
    yield _step(_IF_EQUAL, number, 0, 5)
    yield _step(_LOAD, _ARGUMENTS + 8 * argument)  # its lower half: both machines are little-endian
    yield _step(_AND, mask)
    yield _step(_IF_EQUAL, value, 0, 1)
    yield _step(_RETURN, answers[0])
    yield _step(_RETURN, answers[1])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one instruction; a jump is given in instructions to skip."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
