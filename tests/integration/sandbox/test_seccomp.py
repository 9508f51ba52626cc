"""sandbox/seccomp.py: the kernel refuses native code other processes, the network, and uncounted memory."""

from __future__ import annotations

import ctypes
import os
import platform

import pytest
from in_sandbox import KERNEL_FILTERS, run

from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.sandbox import seccomp

where_it_filters = pytest.mark.skipif(
    not KERNEL_FILTERS, reason="this kernel has no filters, or its calls are not known"
)


@where_it_filters
@pytest.mark.parametrize("trusted", [True, False], ids=["own", "of others"])
@pytest.mark.parametrize(
    "what",
    [
        "fork",
        "vfork",
        "shared",
        "memfd",
        "anonymous",
        "socket",
        "session",
        "outlive",
        pytest.param(f"kill {os.getpid()}", id="kill"),
        pytest.param(f"attach {os.getpid()}", id="attach"),
    ],
)
def test_native_code_is_refused(load, what, trusted):
    assert run(load("NATIVE", what, trusted=trusted)).value == -1


@where_it_filters
def test_threads_go_on(load):
    outcome = run(load("THREADS"))
    assert isinstance(outcome, Returned), outcome
    assert outcome.value.item() == 300**3 + 2**20


def test_a_processor_whose_calls_are_not_known_is_told(monkeypatch):
    monkeypatch.setattr(seccomp, "_MACHINES", {})
    assert not seccomp.confine("cpu")


@where_it_filters
def test_the_numbers_of_signals_are_those_of_this_kernel():
    """The other numbers are shown by native code that is refused: these two calls are limited only."""
    calls = seccomp._MACHINES[platform.machine()].calls
    libc = ctypes.CDLL(None)
    assert libc.syscall(calls["kill"], os.getpid(), 0) == 0
    assert libc.syscall(calls["tgkill"], os.getpid(), os.getpid(), 0) == 0
