"""sandbox/child.py: servers fork children, and children answer."""

from __future__ import annotations

import os
import time

import pytest
from in_sandbox import close, lives, run, where_it_forks

from pytest_torchexport.sandbox import process
from pytest_torchexport.sandbox.libraries import Library
from pytest_torchexport.sandbox.process import Server


def test_what_serving_imports_is_found_where_the_session_finds_it(load, tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    (own / "served_ops.py").write_text("import served_helper\n")
    (own / "served_helper.py").write_text("")
    monkeypatch.syspath_prepend(own)
    blocked = ("served_ops", "served_helper")
    problem = load("ADD", imports=("served_ops",), blocked=blocked).problem
    assert "torchexport_runtime_imports names served_ops, which cannot be imported" in str(problem)
    assert "No module named 'served_helper'" in str(problem)
    served = ("served_ops", "served_helper")
    assert load("ADD", imports=served, blocked=blocked).problem is None


def test_it_works_in_a_directory_of_its_own_and_has_nothing_of_the_users_environment(
    load, tmp_path, monkeypatch
):
    monkeypatch.setenv("SECRET", "token")
    close()
    value = run(load("ENVIRONMENT")).value
    assert "SECRET" not in value
    assert value["HOME"] != os.environ["HOME"]
    assert value["cwd"] == value["TMPDIR"] == str(tmp_path)


def test_what_a_server_cannot_import_is_told_and_nothing_else_is_lost(forks):
    own = forks.artifact_directory()
    forks.preload(["no_such_module"])
    forks.start(forks.home).end()
    assert own.is_dir()
    broken = Server(Library("no.answers", ("no_such_library",)))
    try:
        for _ in range(2):
            with pytest.raises(
                process.ServerUnavailable, match="No module named 'no_such_library'"
            ):
                broken.start(broken.home)
        assert not broken.alive  # whoever asks for one gets another
    finally:
        broken.close()


FORKS = """
import os, pathlib, time
pid = os.fork()
if not pid:
    time.sleep(600)
pathlib.Path("forked").write_text(str(pid))
"""


@where_it_forks
def test_what_a_child_starts_ends_with_it(load, tmp_path, monkeypatch):
    """Before the kernel refuses that: as a module that serving imports may do."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "starts_early.py").write_text(FORKS)
    monkeypatch.syspath_prepend(own)
    session = load("ADD", imports=("starts_early",))
    assert session.problem is None
    started = int((tmp_path / "forked").read_text())
    assert lives(started)
    session.close()
    deadline = time.monotonic() + 20
    while lives(started) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lives(started)
