"""sandbox/server.py: the loop that forks children."""

from __future__ import annotations

import pathlib

import pytest
from in_sandbox import ONNXRUNTIME, where_it_forks

from pytest_torchexport.sandbox import process
from pytest_torchexport.sandbox.libraries import Library
from pytest_torchexport.sandbox.process import Server


def test_what_a_server_cannot_import_is_told_and_nothing_else_is_lost(forks):
    own = forks.artifact_directory()
    forks.preload(["no_such_module"])
    forks.start().end()
    assert own.is_dir()
    broken = Server(Library("no.answers", ("no_such_library",)))
    try:
        for _ in range(2):
            with pytest.raises(
                process.ServerUnavailable, match="No module named 'no_such_library'"
            ):
                broken.start()
        assert not broken.alive  # whoever asks for one gets another
    finally:
        broken.close()


@where_it_forks
def test_one_server_has_no_torch():
    Server.of(ONNXRUNTIME).start().end()
    maps = pathlib.Path(f"/proc/{Server.of(ONNXRUNTIME)._process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "libtorch" not in maps
