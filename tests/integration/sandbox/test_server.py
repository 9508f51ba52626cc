"""sandbox/server.py: the loop that forks children."""

from __future__ import annotations

import pathlib
import time

import pytest
from in_sandbox import ONNXRUNTIME, lives, where_it_forks

from pytest_torchexport.sandbox import process
from pytest_torchexport.sandbox.libraries import Library
from pytest_torchexport.sandbox.process import Server


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


@where_it_forks
def test_one_server_has_no_torch():
    server = Server.of(ONNXRUNTIME)
    server.start(server.home).end()
    maps = pathlib.Path(f"/proc/{Server.of(ONNXRUNTIME)._process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "libtorch" not in maps


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
