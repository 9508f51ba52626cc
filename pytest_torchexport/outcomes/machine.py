"""Faults of the machine: what ran out is named, and the model is not blamed for it.

Separate because each step meets them: the exporter, eager, the artifact and the sandbox. Free of
torch. A model's own exceptions may have the same words: only those of the system, of torch and of
ONNX Runtime count, where these put the words.
"""

from __future__ import annotations

import builtins
import errno
import re
from dataclasses import dataclass

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


@dataclass(frozen=True)
class _Resource:
    """Something of the machine that may run out, and how errors of Python and C++ say so.

    ``errors`` are numbers of the system's errors, ``texts`` their texts, and ``words`` what else
    is said, as patterns.
    """

    text: str
    step: str
    errors: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def is_named_in(self, text: str) -> bool:
        """Return True if a text has the words, or ends a line with the system's own text."""
        ends = (rf"(?:^|[:\]-]\s+){said}(?: \(\d+\))?\s*$" for said in self.texts)
        return any(re.search(pattern, text, re.MULTILINE) for pattern in (*ends, *self.words))


_RESOURCES = (
    _Resource(
        text="the disk is full",
        step=PLACE,
        errors=(errno.ENOSPC, errno.EDQUOT),
        texts=("No space left on device", "Disk quota exceeded"),
        # torch's own, of a file that it could not write: it does not say why.
        words=("PytorchStreamWriter failed writing file",),
    ),
    _Resource(
        text="there is no directory for temporary files",
        step=PLACE,
        words=("No usable temporary directory",),
    ),
    _Resource(
        text="too many files are open",
        step="next step: raise the limit (ulimit -n), or close what the tests leave open",
        errors=(errno.EMFILE, errno.ENFILE),
        texts=("Too many open files", "Too many open files in system"),
    ),
    _Resource(
        text="no further thread or process can be started",
        step="next step: raise the limit (ulimit -u, or the container's), or run less at once",
        errors=(errno.EAGAIN,),
        texts=("Resource temporarily unavailable",),
        words=("^can't start new thread$", "pthread_create failed"),
    ),
    _Resource(
        text="no memory is left",
        step="next step: free memory, or run less at once",
        errors=(
            errno.ENOMEM,
        ),  # no texts: an allocator says it of a program that asks for too much
    ),
)


def fault(error: BaseException) -> Ineffective | None:
    """Return the failure that names what ran out, if an error or its causes say that something
    did.
    """
    found = (
        _fault(
            type(each).__name__, text_of(each), each.errno if isinstance(each, OSError) else None
        )
        for each in chain(error)
    )
    return next(filter(None, found), None)


def raise_fault(error: BaseException) -> None:
    """Raise Ineffective if an error or its causes say that something of the machine ran out."""
    failure = fault(error)
    if failure is not None:
        raise failure from None


def fault_there(kind: str, text: str) -> Ineffective | None:
    """Return the failure for an exception of another process: the name of its class, its text."""
    return _fault(kind, text, None)


def fault_in(text: str) -> Ineffective | None:
    """Return the failure for what a process of ours said when it ended, or could not begin."""
    numbered = _NUMBERED.search(text)
    return _named(text, text, int(numbered[1]) if numbered else None)


def out_of_memory(error: BaseException) -> Ineffective | None:
    """Return the failure for an error of the plugin itself that says that no memory is left."""
    kind, text = type(error).__name__, text_of(error)
    return _failure(_RESOURCES[-1], f"{kind}: {text}") if is_out_of_memory(kind, text) else None


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


def _fault(kind: str, text: str, number: int | None) -> Ineffective | None:
    """Return the failure for an exception; ``number`` is the system's, None if it has none."""
    inner, said = _unwrapped(kind, text)
    number = _number(inner, said) if number is None else number
    if number is None and inner not in _NATIVE:
        return None
    return _named(f"{kind}: {text}", said, number)


def _unwrapped(kind: str, text: str) -> tuple[str, str]:
    """Return the class and the text of the exception inside one of torch's, if it names one."""
    wrapped = _WRAPPED.match(text) if kind in _NATIVE else None
    return _unwrapped(wrapped[1], wrapped[2]) if wrapped else (kind, text)


def _named(said: str, text: str, number: int | None) -> Ineffective | None:
    for resource in _RESOURCES:
        if number in resource.errors or resource.is_named_in(text):
            return _failure(resource, said)
    return None


def _failure(resource: _Resource, text: str) -> Ineffective:
    said = " ".join(text.split())
    return Ineffective(f"on this machine {resource.text}: {said:.300}", details=(resource.step,))
