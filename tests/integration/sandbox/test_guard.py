"""sandbox/guard.py: a child is refused packages, the network, other files, and disk without end."""

from __future__ import annotations

import os
import signal

import pytest
from in_sandbox import run, where_it_forks

from pytest_torchexport.outcomes.observe import Crashed
from pytest_torchexport.sandbox import guard


def test_limits_that_a_system_does_not_let_be_set_are_left(monkeypatch):
    resource = pytest.importorskip("resource")
    asked = []

    def refuse(kind, bounds):
        asked.append(bounds)
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    guard.limit(2000)
    assert asked == [(0, 0), (1000, 1000), (1000, 1000)]


FORBIDDEN = {
    **dict.fromkeys(["network", "name"], "there is no network in the clean process"),
    **dict.fromkeys(["program", "shell", "fork"], "starts no other program"),
    **dict.fromkeys(["write", "database"], "writes in its own directory only"),
    **dict.fromkeys(["signal", "group"], "signals nobody else"),
}


@pytest.mark.parametrize("trusted", [True, False], ids=["own", "of others"])
def test_what_is_forbidden_raises_and_what_is_allowed_does_not(load, tmp_path_factory, trusted):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    said = run(load("TRIES", str(elsewhere / "new"), trusted=trusted)).value
    assert not list(elsewhere.iterdir())
    expected = FORBIDDEN if trusted else {**FORBIDDEN, "unpickle": "a pickle that names pathlib"}
    for what, words in said.items():
        assert expected.get(what, "") in words, what
        assert bool(words) == (what in expected), words


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
