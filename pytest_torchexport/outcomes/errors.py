"""Texts and causes of errors, and whether something of the machine ran out.

Separate from ``messages``, which knows torch: the clean process has no torch and needs these. Each
step meets faults of the machine, for which no model is blamed. A model's own exceptions may have
the same words: only those of the system, of torch and of ONNX Runtime count, where these put them.
"""

from __future__ import annotations

import builtins
import errno
import re
from collections.abc import Iterator

from pytest_torchexport.results.escaped import visible
from pytest_torchexport.results.failures import Ineffective


def text_of(error: BaseException) -> str:
    """Return ``str(error)``; an exception class of the user may raise there."""
    try:
        return str(error).strip()
    except Exception as other:
        return f"(its text cannot be shown: {type(other).__name__})"


def chain(error: BaseException, *, explicit: bool = False) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from or after, each once.

    ``explicit``: only those that it was raised ``from``. ``raise error from error`` makes an
    exception its own cause.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if explicit else cause.__context__)


def printable(text: str) -> str:
    """Return the text with escapes for what a terminal would obey, and line feeds as line ends."""
    return visible(text.replace("\r\n", "\n").replace("\r", "\n"))


# -- faults of the machine -------------------------------------------------------------------------

# What to do if there is no place for files.
PLACE = "next step: TMPDIR must name a directory that has space and can be written to"
# The system's own text, at the end of a line.
_AT_AN_END = r"(?:^|[:\]-]\s+)(?:{})(?: \(\d+\))?\s*$"
# What may run out: its name, what to do, the numbers of the system's errors, and how C++ says so.
_RESOURCES = (
    (
        "the disk is full",
        PLACE,
        (errno.ENOSPC, errno.EDQUOT),
        # Of a file that torch could not write, it does not say why.
        _AT_AN_END.format("No space left on device|Disk quota exceeded")
        + "|PytorchStreamWriter failed writing file",
    ),
    ("there is no directory for temporary files", PLACE, (), "No usable temporary directory"),
    (
        "too many files are open",
        "next step: raise the limit (ulimit -n), or close what the tests leave open",
        (errno.EMFILE, errno.ENFILE),
        _AT_AN_END.format("Too many open files(?: in system)?"),
    ),
    (
        "no further thread or process can be started",
        "next step: raise the limit (ulimit -u, or the container's), or run less at once",
        (errno.EAGAIN,),
        _AT_AN_END.format("Resource temporarily unavailable")
        + "|^can't start new thread$|pthread_create failed",
    ),
    (
        "no memory is left",
        "next step: free memory, or run less at once",
        (errno.ENOMEM,),
        r"(?!)",  # an allocator says it of a program that asks for too much
    ),
)
# How errors of C++ arrive in Python, by the names of their classes; the last four are of ONNX
# Runtime. Another class is the model's own, or says what another error was.
_NATIVE = (
    "RuntimeError",
    "AcceleratorError",
    "OutOfMemoryError",
    "Fail",
    "RuntimeException",
    "EPFail",
    "EngineError",
)
# How torch says which exception of Python a custom operator or a script raised.
_WRAPPED = re.compile(r"(\w+(?:Error|Exception)): (.*)", re.DOTALL)
# How Python begins the text of an OSError.
_NUMBERED = re.compile(r"\[Errno (\d+)\]")
# How Python, torch, C++, CUDA, cuBLAS and cuDNN say that no memory is left.
_NO_MEMORY = re.compile(
    "allocate memory|bad_alloc|bad allocation|not enough memory|out of memory|STATUS_ALLOC_FAILED"
)


def fault(error: BaseException, *, memory: bool = False) -> Ineffective | None:
    """Return the failure that names what ran out, if an error or its causes say so.

    ``memory``: count lack of memory too, where no model or artifact asked for it.
    """
    for each in chain(error):
        kind, text = type(each).__name__, text_of(each)
        failure = fault_there(kind, text)
        if memory and is_out_of_memory(kind, text):
            failure = failure or _failure(f"{kind}: {text}", *_RESOURCES[-1][:2])
        if failure is not None:
            return failure
    return None


def raise_fault(error: BaseException) -> None:
    failure = fault(error)
    if failure is not None:
        raise failure from None


def fault_there(kind: str, text: str) -> Ineffective | None:
    """Return the failure for an exception, also of another process: its class's name, its text."""
    inner, said = _unwrapped(kind, text)
    is_known = inner in _NATIVE or _number(inner, said) is not None
    return fault_in(said, shown=f"{kind}: {text}") if is_known else None


def fault_in(text: str, shown: str = "") -> Ineffective | None:
    """Return the failure for what a process of ours said when it ended, or could not begin."""
    numbered = _NUMBERED.search(text)
    for name, step, numbers, words in _RESOURCES:
        if (numbered and int(numbered[1]) in numbers) or re.search(words, text, re.MULTILINE):
            return _failure(shown or text, name, step)
    return None


def is_out_of_memory(kind: str, text: str) -> bool:
    """Return True if an error says that no memory is left; ``kind`` is the name of its class."""
    kind, text = _unwrapped(kind, text)
    if kind.endswith("MemoryError") or _number(kind, text) == errno.ENOMEM:  # numpy has its own
        return True
    return kind in _NATIVE and bool(_NO_MEMORY.search(text))


def _number(kind: str, text: str) -> int | None:
    """Return the number in the text of one of Python's own errors of the system, else None."""
    cls, numbered = getattr(builtins, kind, None), _NUMBERED.match(text)
    of_the_system = isinstance(cls, type) and issubclass(cls, OSError)
    return int(numbered[1]) if numbered and of_the_system else None


def _unwrapped(kind: str, text: str) -> tuple[str, str]:
    """Return the class and the text of the exception inside one of torch's, if it names one."""
    wrapped = _WRAPPED.match(text) if kind in _NATIVE else None
    return _unwrapped(wrapped[1], wrapped[2]) if wrapped else (kind, text)


def _failure(said: str, name: str, step: str) -> Ineffective:
    return Ineffective(f"on this machine {name}: {' '.join(said.split()):.300}", details=(step,))
