"""sandbox/kernel.py: the kernel refuses what audit events do not see."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

import pytest
from in_sandbox import KERNEL_FILTERS, run

from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.sandbox import kernel

where_it_is = pytest.mark.skipif(
    kernel.landlock_version() < 1, reason="this kernel has no Landlock"
)


def native(load, *attempts, **options):
    """The results of what native code tries, in one process."""
    return run(load("NATIVE", "\n".join(attempts), **options)).value


@where_it_is
def test_native_code_of_own_files_writes_nowhere_else(load, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert native(load, f"create {elsewhere / 'new'}") == [-1]
    assert not list(elsewhere.iterdir())


@where_it_is
@pytest.mark.parametrize("trusted", [True, False], ids=["own", "of others"])
def test_the_environment_of_other_processes_is_not_read(load, trusted):
    read = [f"read /proc/{process}/environ" for process in (os.getpid(), os.getppid(), "self")]
    *others, own = native(load, *read, trusted=trusted)
    assert others == [-1, -1]
    assert own > 0


@where_it_is
def test_only_files_of_others_are_kept_from_reading_the_users_files(load, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_text("token")
    assert native(load, f"read {secret}", trusted=False) == [-1]
    assert native(load, f"read {secret}")[0] > 0


@where_it_is
def test_files_of_others_read_the_libraries(load):
    paths = (os.__file__, pytest.__file__, kernel.__file__, "/proc/meminfo", os.devnull)
    found = native(load, *(f"read {Path(path).resolve()}" for path in paths), trusted=False)
    assert all(descriptor > 0 for descriptor in found)


@where_it_is
@pytest.mark.parametrize("each_file", [True, False], ids=["each file", "as a whole"])
def test_files_of_others_read_packages_that_are_links(
    load, tmp_path_factory, monkeypatch, each_file
):
    site, store = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("store")
    package = store / "linked"
    package.mkdir()
    for name in ("__init__.py", "late.py"):
        (package / name).write_text("'text'")
    if each_file:
        (site / "linked").mkdir()
        for file in package.iterdir():
            (site / "linked" / file.name).symlink_to(file)
    else:
        (site / "linked").symlink_to(package)
    (store / "secret").write_text("token")
    monkeypatch.syspath_prepend(site)
    served = {"trusted": False, "imports": ("linked",)}
    read = (f"read {site / 'linked' / 'late.py'}", f"read {store / 'secret'}")
    allowed, refused = native(load, *read, **served)
    assert (allowed > 0, refused) == (True, -1)


where_it_filters = pytest.mark.skipif(
    not KERNEL_FILTERS, reason="this kernel has no filters, or its calls are not known"
)


@where_it_filters
@pytest.mark.parametrize("trusted", [True, False], ids=["own", "of others"])
def test_native_code_is_refused(load, trusted):
    names = ["fork", "vfork", "shared", "memfd", "anonymous", "socket", "session", "outlive"]
    attempts = [*names, f"kill {os.getpid()}", f"attach {os.getpid()}"]
    assert native(load, *attempts, trusted=trusted) == [-1] * len(attempts)


@where_it_filters
def test_threads_go_on(load):
    outcome = run(load("THREADS"))
    assert isinstance(outcome, Returned), outcome
    assert outcome.value.item() == 300**3 + 2**20


def test_a_processor_whose_calls_are_not_known_is_told(monkeypatch):
    monkeypatch.setattr(kernel, "_MACHINES", {})
    assert not kernel.limit_calls("cpu")


@where_it_filters
def test_the_numbers_of_signals_are_those_of_this_kernel():
    """The other numbers are shown by native code that is refused: these two calls are limited only."""
    column = kernel._MACHINES[platform.machine()].column
    kill, tgkill = (kernel._LOOKED_AT[name][column] for name in ("kill", "tgkill"))
    libc = ctypes.CDLL(None)
    assert libc.syscall(kill, os.getpid(), 0) == 0
    assert libc.syscall(tgkill, os.getpid(), os.getpid(), 0) == 0
