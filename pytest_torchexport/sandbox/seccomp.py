"""seccomp: the Linux kernel refuses this process what no artifact needs, native code included.

Landlock limits files. This limits the rest: other processes, other programs, the network, and
memory that no limit counts. Separate because it calls the kernel by number and assembles a filter
of system calls (https://docs.kernel.org/userspace-api/seccomp_filter.html). Free of torch.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

# The numbers of system calls: https://github.com/torvalds/linux/tree/master/arch
_SAME_EVERYWHERE = {
    "io_uring_setup": 425,
    "memfd_secret": 447,
    "pidfd_getfd": 438,
    "pidfd_open": 434,
    "pidfd_send_signal": 424,
    "clone3": 435,
}
_X86_64 = {
    "add_key": 248,
    "bpf": 321,
    "clone": 56,
    "execve": 59,
    "execveat": 322,
    "fallocate": 285,
    "fork": 57,
    "kcmp": 312,
    "keyctl": 250,
    "kill": 62,
    "memfd_create": 319,
    "mmap": 9,
    "msgget": 68,
    "open_by_handle_at": 304,
    "perf_event_open": 298,
    "prctl": 157,
    "prlimit64": 302,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "ptrace": 101,
    "request_key": 249,
    "rt_sigqueueinfo": 129,
    "rt_tgsigqueueinfo": 297,
    "seccomp": 317,
    "semget": 64,
    "setns": 308,
    "setpgid": 109,
    "setsid": 112,
    "shmget": 29,
    "socket": 41,
    "tgkill": 234,
    "tkill": 200,
    "unshare": 272,
    "userfaultfd": 323,
    "vfork": 58,
}
_AARCH64 = {
    "add_key": 217,
    "bpf": 280,
    "clone": 220,
    "execve": 221,
    "execveat": 281,
    "fallocate": 47,
    "kcmp": 272,
    "keyctl": 219,
    "kill": 129,
    "memfd_create": 279,
    "mmap": 222,
    "msgget": 186,
    "open_by_handle_at": 265,
    "perf_event_open": 241,
    "prctl": 167,
    "prlimit64": 261,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "ptrace": 117,
    "request_key": 218,
    "rt_sigqueueinfo": 138,
    "rt_tgsigqueueinfo": 240,
    "seccomp": 277,
    "semget": 190,
    "setns": 268,
    "setpgid": 154,
    "setsid": 157,
    "shmget": 194,
    "socket": 198,
    "tgkill": 131,
    "tkill": 130,
    "unshare": 97,
    "userfaultfd": 282,
}


@dataclass(frozen=True)
class _Machine:
    """A processor: its number in filters, those of its calls, and the first of another ABI."""

    audit: int
    calls: Mapping[str, int]
    foreign: int = 0


_MACHINES = MappingProxyType(
    {
        "x86_64": _Machine(0xC000003E, _X86_64 | _SAME_EVERYWHERE, foreign=0x40000000),
        "aarch64": _Machine(0xC00000B7, _AARCH64 | _SAME_EVERYWHERE),
    }
)

# Refused: other processes and programs, their memory, IPC that outlives this process, namespaces.
_REFUSED = (
    "add_key",
    "bpf",
    "execve",
    "execveat",
    "fork",
    "kcmp",
    "keyctl",
    "msgget",
    "open_by_handle_at",
    "perf_event_open",
    "pidfd_getfd",
    "pidfd_open",
    "pidfd_send_signal",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "request_key",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "semget",
    "setns",
    "setpgid",
    "setsid",
    "shmget",
    "tkill",
    "unshare",
    "userfaultfd",
    "vfork",
)
# As if the kernel had no such call, so that libraries go another way: start threads by clone, whose
# flags a filter can read.
_UNKNOWN = ("clone3", "io_uring_setup")
# Memory that RLIMIT_DATA does not count. CUDA's driver needs it, and has no such limit.
_UNCOUNTED = ("memfd_create", "memfd_secret")

_CLONE_THREAD = 0x10000
_SHARED_ANONYMOUS = 0x01 | 0x20
_WHOLE = 0xFFFFFFFF
_PARENT_DEATH_SIGNAL, _NO_NEW_PRIVILEGES = 1, 38
_UNIX_SOCKET = 1
# https://man7.org/linux/man-pages/man7/capabilities.7.html; files may have another owner than root.
_CAPABILITY_VERSION, _ANY_FILE = 0x20080522, 1 << 1
_SET_FILTER, _ALL_THREADS = 1, 1

# The opcodes of a filter: https://www.kernel.org/doc/Documentation/networking/filter.txt
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_IF_EQUAL, _IF_AT_LEAST = 0x15, 0x35
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16


def confine(device: str) -> bool:
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
    _drop_privileges(libc)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    code = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(
        struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    )
    number = machine.calls["seccomp"]
    installed: int = libc.syscall(
        ctypes.c_long(number), ctypes.c_ulong(_SET_FILTER), ctypes.c_ulong(_ALL_THREADS), header
    )
    return installed == 0


def _drop_privileges(libc: ctypes.CDLL) -> None:
    """Leave root what an owner may do with files, and no other power."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    # Twice 32 bits of the effective, the permitted and the inheritable ones.
    held = ctypes.create_string_buffer(24)
    if libc.capget(header, held) == 0:
        kept = struct.unpack("=6I", held.raw[:24])[1] & _ANY_FILE
        libc.capset(header, ctypes.create_string_buffer(struct.pack("=6I", kept, kept, 0, 0, 0, 0)))


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
    unknown = _UNKNOWN if cuda else (*_UNKNOWN, *_UNCOUNTED)
    answers = dict.fromkeys(_REFUSED, refused) | dict.fromkeys(unknown, _ERROR | errno.ENOSYS)
    answers["fallocate"] = _ERROR | errno.EOPNOTSUPP  # what is written instead is counted
    for name, answer in answers.items():
        if name in machine.calls:
            yield _step(_IF_EQUAL, machine.calls[name], 0, 1)
            yield _step(_RETURN, answer)
    only, never = (_ALLOW, refused), (refused, _ALLOW)
    own = os.getpid()
    yield from _if(machine.calls["clone"], 0, _CLONE_THREAD, _CLONE_THREAD, only)
    yield from _if(machine.calls["kill"], 0, _WHOLE, own, only)
    yield from _if(machine.calls["tgkill"], 0, _WHOLE, own, only)
    yield from _if(machine.calls["prlimit64"], 0, _WHOLE, 0, only)
    yield from _if(machine.calls["prctl"], 0, _WHOLE, _PARENT_DEATH_SIGNAL, never)
    yield from _if(
        machine.calls["socket"], 0, _WHOLE, _UNIX_SOCKET, only if cuda else (refused,) * 2
    )
    if not cuda:
        yield from _if(machine.calls["mmap"], 3, _SHARED_ANONYMOUS, _SHARED_ANONYMOUS, never)
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
