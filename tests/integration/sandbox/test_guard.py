"""sandbox/guard.py: a child is refused packages, the network, other files, and disk without end."""

from __future__ import annotations

import os
import signal

import pytest
from in_sandbox import run, where_it_forks

from pytest_torchexport.outcomes.observe import Crashed, Raised
from pytest_torchexport.sandbox import guard


def test_limits_that_a_system_does_not_let_be_set_are_left(monkeypatch):
    resource = pytest.importorskip("resource")
    kept, asked = signal.getsignal(signal.SIGXFSZ), []

    def refuse(kind, bounds):
        asked.append((kind, bounds))
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    try:
        guard.limit(2000)
    finally:
        signal.signal(signal.SIGXFSZ, kept)
    assert [bounds for _, bounds in asked] == [(0, 0), (1000, 1000), (1000, 1000)]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("network", "there is no network in the clean process"),
        ("program", "starts no other program"),
        ("fork", "starts no other program"),
        ("write {}/elsewhere", "writes in its own directory only"),
        ("database {}/elsewhere", "writes in its own directory only"),
        ("signal", "signals nobody else"),
        ("group", "signals nobody else"),
    ],
)
def test_what_is_forbidden_raises(load, tmp_path_factory, what, said):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    problem = load("TRIES", what.format(elsewhere)).problem
    assert isinstance(problem, Raised)
    assert problem.type == "PermissionError"
    assert said in problem.message
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    "what",
    ["write at home", "temporary", "read", "database in memory", "database at home", "own tree"],
)
def test_what_is_allowed_does_not(load, what):
    assert load("TRIES", what).problem is None


def test_a_pickle_that_names_code_is_refused_in_files_of_others_only(load):
    assert load("TRIES", "unpickle").problem is None
    problem = load("TRIES", "unpickle", trusted=False).problem
    assert "a pickle that names pathlib" in problem.message


def test_a_blocked_package_looks_as_if_it_were_not_installed(load):
    assert load("IMPORTS", "wave").problem is None
    problem = load("IMPORTS", "wave", blocked=("wave",)).problem
    assert str(problem) == "ModuleNotFoundError: No module named 'wave'"
    assert load("IMPORTS", "wave").problem is None


@where_it_forks
@pytest.mark.parametrize("what", ["kept", "removed"])
def test_files_without_end_are_told_with_the_limit(load, tmp_path, what):
    before = guard.written_by(os.getpid())
    (tmp_path / "probe").write_bytes(bytes(2**20))
    if what == "removed" and guard.written_by(os.getpid()) == before:
        pytest.skip("what is written here is not counted: the directory lies in memory")
    outcome = run(load("MANY_FILES", what))
    assert isinstance(outcome, Crashed)
    assert "SIGXFSZ" in outcome.reason
    assert "more than 256 MB in all" in outcome.reason
