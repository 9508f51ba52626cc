"""outcomes/errors.py: texts and causes of exceptions; what runs out is named, and no model blamed."""

from __future__ import annotations

import errno
import os
import threading

import pytest
import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes import errors
from pytest_torchexport.outcomes.errors import chain, printable, text_of
from pytest_torchexport.outcomes.limits import in_thread
from pytest_torchexport.outcomes.observe import observe
from pytest_torchexport.results.failures import Ineffective


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_causes_that_lead_in_a_circle_come_once_each():
    first, second, third = ValueError("a"), RuntimeError("b"), KeyError("c")
    first.__cause__, second.__context__, third.__cause__ = second, third, first
    assert list(chain(first)) == [first, second, third]
    assert list(chain(first, explicit=True)) == [first, second]


def test_a_text_that_cannot_be_made_is_named():
    assert text_of(Unprintable()) == "(its text cannot be shown: ValueError)"


def test_what_a_terminal_would_obey_is_escaped_and_nothing_else():
    assert printable("a\x1b[31m\u202e\r\n\tb\r") == "a<U+001B>[31m<U+202E>\n\tb\n"
    assert printable("1\u00a0000 \u3000 行") == "1\u00a0000 \u3000 行"


# -- faults of the machine -------------------------------------------------------------------------


class PoolIsFull(RuntimeError):
    """A model's own."""


def of(number, *more):
    return OSError(number, os.strerror(number), *more)


@pytest.mark.parametrize(
    ("error", "said", "step"),
    [
        (of(errno.ENOSPC, "/tmp/x"), "the disk is full: OSError: [Errno 28] No space", "TMPDIR"),
        (BlockingIOError(errno.EAGAIN, "fork"), "no further thread or process", "ulimit -u"),
        (RuntimeError("can't start new thread"), "no further thread or process", "ulimit -u"),
        (RuntimeError("unable to open </torch_1>: Too many open files (24)"), "too many", "-n"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), "the disk is full", ""),
        (FileNotFoundError(2, "No usable temporary directory found in []"), "no directory", ""),
        (of(errno.ENOMEM), "no memory is left", "free memory"),
        (RuntimeError("OSError: [Errno 28] No: 'x'\n\nAt:"), "the disk is full", ""),
    ],
)
def test_what_ran_out_is_named_with_the_next_step(error, said, step):
    outer = ValueError("the exporter gave up")
    outer.__cause__ = error
    failure = errors.fault(outer)
    assert isinstance(failure, Ineffective)
    assert str(failure).startswith("on this machine ")
    assert said in str(failure)
    assert step in "".join(failure.details)


def test_what_ran_out_for_another_process_is_named():
    assert "too many files" in str(errors.fault_there("Fail", "open: Too many open files"))
    assert "too many files" in str(errors.fault_in("not started: [Errno 24] Too many open files"))
    text = "what():  Resource temporarily unavailable\n"
    assert "no further thread" in str(errors.fault_in(text))


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 TB"),
        MemoryError(),
        ValueError("No space left on device"),
        OSError("Too many open files"),
        PoolIsFull("can't start new thread"),
        RuntimeError("Too many open files in the pool"),
        RuntimeError("ValueError: No space left on device\n\nAt:\n  net.py(3): forward"),
    ],
)
def test_what_a_program_does_itself_is_not_the_machines_fault(error):
    assert errors.fault(error) is None


def test_neither_eager_nor_a_call_without_a_thread_is_blamed(monkeypatch):
    def raises(error):
        raise error

    call = Call((torch.ones(2),))
    with pytest.raises(Ineffective, match="too many files are open"):
        observe(lambda _: raises(of(errno.EMFILE)), call, seed=0)
    error = RuntimeError("can't start new thread")
    monkeypatch.setattr(threading.Thread, "start", lambda _: raises(error))
    with pytest.raises(Ineffective, match="no further thread or process"):
        observe(torch.relu, call, seed=0, run=lambda go: in_thread(go, 1.0))


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (MemoryError(), True),
        (of(errno.ENOMEM), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("MemoryError: <EMPTY MESSAGE>"), True),
        (ValueError("out of memory cells"), False),
        (RuntimeError("ValueError: out of memory cells"), False),
    ],
)
def test_words_for_no_memory_are_known(error, out):
    assert errors.is_out_of_memory(type(error).__name__, str(error)) is out
    assert (errors.fault(error, memory=True) is not None) is out
