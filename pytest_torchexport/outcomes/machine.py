"""Faults of the machine: what ran out is named, and the model is not blamed for it.

Separate because each step meets them: the exporter, eager, the artifact and the sandbox. Free of
torch.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_torchexport.outcomes.messages import text_of
from pytest_torchexport.results.failures import Ineffective

# What to do if there is no place for files.
PLACE = "next step: TMPDIR must name a directory that has space and can be written to"


@dataclass(frozen=True)
class _Resource:
    """Something of the machine that may run out, and how errors of Python and C++ say so."""

    text: str
    step: str
    errors: tuple[int, ...]
    words: tuple[str, ...]


_RESOURCES = (
    _Resource(
        text="the disk is full",
        step=PLACE,
        errors=(errno.ENOSPC, errno.EDQUOT),
        # torch's own, of a file that it could not write: it does not say why.
        words=("No space left on device", "Disk quota exceeded", "failed writing file"),
    ),
    _Resource(
        text="there is no directory for temporary files",
        step=PLACE,
        errors=(),
        words=("No usable temporary directory",),
    ),
    _Resource(
        text="too many files are open",
        step="next step: raise the limit (ulimit -n), or close what the tests leave open",
        errors=(errno.EMFILE, errno.ENFILE),
        words=("Too many open files",),
    ),
    _Resource(
        text="no further thread or process can be started",
        step="next step: raise the limit (ulimit -u, or the container's), or run less at once",
        errors=(errno.EAGAIN,),
        words=("can't start new thread", "Resource temporarily unavailable", "pthread_create"),
    ),
    _Resource(
        text="no memory is left",
        step="next step: free memory, or run less at once",
        errors=(errno.ENOMEM,),
        words=(),  # an allocator says it of a program that asks for too much
    ),
)


def fault(found: BaseException | str) -> Ineffective | None:
    """Return the failure that names what ran out, if an error or its causes say that something
    did.
    """
    for error in [found] if isinstance(found, str) else _chain(found):
        text = error if isinstance(error, str) else f"{type(error).__name__}: {text_of(error)}"
        number = error.errno if isinstance(error, OSError) else None
        for resource in _RESOURCES:
            if number in resource.errors or any(word in text for word in resource.words):
                return _failure(resource, text)
    return None


def raise_fault(error: BaseException) -> None:
    """Raise Ineffective if an error or its causes say that something of the machine ran out."""
    failure = fault(error)
    if failure is not None:
        raise failure from None


def out_of_memory(text: str) -> Ineffective | None:
    """Return the failure for an error of the plugin itself that says that no memory is left."""
    return _failure(_RESOURCES[-1], text) if is_out_of_memory(text) else None


def is_out_of_memory(text: str) -> bool:
    """Return True if an error says, in words of Python, torch or C++, that no memory is left."""
    words = (
        "MemoryError",
        "allocate memory",
        "bad_alloc",
        "bad allocation",
        "not enough memory",
        "out of memory",  # CUDA's own, and cuBLAS's and cuDNN's:
        "STATUS_ALLOC_FAILED",
    )
    return any(word in text for word in words)


def _failure(resource: _Resource, text: str) -> Ineffective:
    said = " ".join(text.split())
    return Ineffective(f"on this machine {resource.text}: {said:.300}", details=(resource.step,))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        yield following
        following = following.__cause__ or following.__context__
