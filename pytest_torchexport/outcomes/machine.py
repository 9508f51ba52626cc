"""Faults of the machine: what ran out is named, and the model is not blamed for it.

Separate because each step meets them: the exporter, eager, the artifact and the sandbox. Free of
torch. A model's own exceptions may have the same words: only those of the system, of torch and of
ONNX Runtime count, where these put the words.
"""

from __future__ import annotations

import builtins
import errno
import re
from typing import NamedTuple

from pytest_torchexport.outcomes.texts import chain, text_of
from pytest_torchexport.results.failures import Ineffective

# What to do if there is no place for files.
PLACE = "next step: TMPDIR must name a directory that has space and can be written to"
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


class _Resource(NamedTuple):
    """Something of the machine that may run out, the numbers of its errors, and how C++ says so."""

    text: str
    step: str
    errors: tuple[int, ...]
    words: str


def _at_an_end(texts: str) -> str:
    """Return a pattern for lines that end with one of the system's own texts."""
    return rf"(?:^|[:\]-]\s+)(?:{texts})(?: \(\d+\))?\s*$"


_RESOURCES = (
    _Resource(
        "the disk is full",
        PLACE,
        (errno.ENOSPC, errno.EDQUOT),
        # Of a file that torch could not write, it does not say why.
        _at_an_end("No space left on device|Disk quota exceeded")
        + "|PytorchStreamWriter failed writing file",
    ),
    _Resource(
        "there is no directory for temporary files", PLACE, (), "No usable temporary directory"
    ),
    _Resource(
        "too many files are open",
        "next step: raise the limit (ulimit -n), or close what the tests leave open",
        (errno.EMFILE, errno.ENFILE),
        _at_an_end("Too many open files(?: in system)?"),
    ),
    _Resource(
        "no further thread or process can be started",
        "next step: raise the limit (ulimit -u, or the container's), or run less at once",
        (errno.EAGAIN,),
        _at_an_end("Resource temporarily unavailable")
        + "|^can't start new thread$|pthread_create failed",
    ),
    _Resource(
        "no memory is left",
        "next step: free memory, or run less at once",
        (errno.ENOMEM,),
        r"(?!)",  # an allocator says it of a program that asks for too much
    ),
)


def fault(error: BaseException) -> Ineffective | None:
    """Return the failure that names what ran out, if an error or its causes say so."""
    for each in chain(error):
        number = each.errno if isinstance(each, OSError) else None
        failure = fault_there(type(each).__name__, text_of(each), number)
        if failure is not None:
            return failure
    return None


def raise_fault(error: BaseException) -> None:
    """Raise Ineffective if an error or its causes say that something of the machine ran out."""
    failure = fault(error)
    if failure is not None:
        raise failure from None


def fault_there(kind: str, text: str, number: int | None = None) -> Ineffective | None:
    """Return the failure for an exception, also of another process: its class's name, its text.

    ``number`` is the system's, None if it has none.
    """
    inner, said = _unwrapped(kind, text)
    number = _number(inner, said) if number is None else number
    if number is None and inner not in _NATIVE:
        return None
    return _named(f"{kind}: {text}", said, number)


def fault_in(text: str) -> Ineffective | None:
    """Return the failure for what a process of ours said when it ended, or could not begin."""
    numbered = _NUMBERED.search(text)
    return _named(text, text, int(numbered[1]) if numbered else None)


def out_of_memory(error: BaseException) -> Ineffective | None:
    """Return the failure for an error of the plugin itself that says that no memory is left."""
    kind, text = type(error).__name__, text_of(error)
    return _named(f"{kind}: {text}", "", errno.ENOMEM) if is_out_of_memory(kind, text) else None


def is_out_of_memory(kind: str, text: str) -> bool:
    """Return True if an error says, in words of Python, torch or C++, that no memory is left.

    ``kind`` is the name of its class.
    """
    words = (
        "allocate memory",
        "bad_alloc",
        "bad allocation",
        "not enough memory",
        "out of memory",  # CUDA's own, and cuBLAS's and cuDNN's:
        "STATUS_ALLOC_FAILED",
    )
    kind, text = _unwrapped(kind, text)
    if kind.endswith("MemoryError") or _number(kind, text) == errno.ENOMEM:  # numpy has its own
        return True
    return kind in _NATIVE and any(word in text for word in words)


def _number(kind: str, text: str) -> int | None:
    """Return the number in the text of one of Python's own errors of the system, else None."""
    cls, numbered = getattr(builtins, kind, None), _NUMBERED.match(text)
    of_the_system = isinstance(cls, type) and issubclass(cls, OSError)
    return int(numbered[1]) if numbered and of_the_system else None


def _unwrapped(kind: str, text: str) -> tuple[str, str]:
    """Return the class and the text of the exception inside one of torch's, if it names one."""
    wrapped = _WRAPPED.match(text) if kind in _NATIVE else None
    return _unwrapped(wrapped[1], wrapped[2]) if wrapped else (kind, text)


def _named(said: str, text: str, number: int | None) -> Ineffective | None:
    for resource in _RESOURCES:
        if number in resource.errors or re.search(resource.words, text, re.MULTILINE):
            short = " ".join(said.split())
            message = f"on this machine {resource.text}: {short:.300}"
            return Ineffective(message, details=(resource.step,))
    return None
