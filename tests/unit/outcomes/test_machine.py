"""outcomes/machine.py: what runs out on a machine is named, and no model is blamed."""

from __future__ import annotations

import errno
import os
import threading

import pytest
import torch
from torch import nn

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes import machine
from pytest_torchexport.outcomes.limits import in_thread
from pytest_torchexport.outcomes.observe import observe
from pytest_torchexport.results.failures import Ineffective

CALL = Call((torch.ones(2),))


class PoolIsFull(RuntimeError):
    """A model's own."""


def of(number, *more):
    return OSError(number, os.strerror(number), *more)


@pytest.mark.parametrize(
    ("error", "said", "step"),
    [
        (of(errno.ENOSPC, "/tmp/x"), "the disk is full: OSError: [Errno 28] No space", "TMPDIR"),
        (of(errno.EMFILE), "too many files are open", "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, "fork"), "no further thread or process", "ulimit -u"),
        (RuntimeError("can't start new thread"), "no further thread or process", "ulimit -u"),
        (RuntimeError("unable to open </torch_1>: Too many open files (24)"), "too many", ""),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), "the disk is full", ""),
        (FileNotFoundError(2, "No usable temporary directory found in []"), "no directory", ""),
        (of(errno.ENOMEM), "no memory is left", "free memory"),
    ],
)
def test_what_ran_out_is_named_with_the_next_step(error, said, step):
    failure = machine.fault(error)
    assert isinstance(failure, Ineffective)
    assert str(failure).startswith("on this machine ")
    assert said in str(failure)
    assert step in "".join(failure.details)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (machine.fault_there("OSError", "[Errno 28] No space left: 'x'"), "the disk is full"),
        (machine.fault_there("RuntimeError", "OSError: [Errno 28] No: 'x'\n\nAt:"), "disk is full"),
        (machine.fault_there("Fail", "open: Too many open files"), "too many files are open"),
        (machine.fault_in("not started: [Errno 24] Too many open files"), "too many files"),
        (machine.fault_in("what():  Resource temporarily unavailable\n"), "no further thread"),
    ],
)
def test_what_ran_out_for_another_process_is_named(found, said):
    assert said in str(found)


def test_the_cause_behind_an_exporters_error_is_found():
    error = ValueError("the exporter gave up")
    error.__cause__ = of(errno.ENOSPC)
    assert "the disk is full" in str(machine.fault(error))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        PermissionError(errno.EACCES, "Permission denied"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
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
    kind, text = type(error).__name__, str(error)
    assert machine.fault(error) is None
    assert machine.fault_there(kind, text) is None


def test_neither_eager_nor_a_call_without_a_thread_is_blamed(monkeypatch):
    def raises(error):
        raise error

    with pytest.raises(Ineffective, match="too many files are open"):
        observe(lambda _: raises(of(errno.EMFILE)), CALL, seed=0)
    error = RuntimeError("can't start new thread")
    monkeypatch.setattr(threading.Thread, "start", lambda _: raises(error))
    with pytest.raises(Ineffective, match="no further thread or process"):
        observe(nn.ReLU(), CALL, seed=0, run=lambda go: in_thread(go, 1.0))


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (MemoryError(), True),
        (of(errno.ENOMEM), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("MemoryError: <EMPTY MESSAGE>"), True),
        (ValueError("out of memory cells"), False),
        (RuntimeError("ValueError: out of memory cells"), False),
        (RuntimeError("The size of tensor a must match the size of tensor b"), False),
    ],
)
def test_words_for_no_memory_are_known(error, out):
    assert (machine.out_of_memory(error) is not None) is out
