"""sandbox/libraries.py: where torch is installed, and a file of a library that runs without torch."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest
import torch
from in_sandbox import MEMORY, ONNXRUNTIME, close, run

from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.sandbox import process
from pytest_torchexport.sandbox.libraries import THREADS
from pytest_torchexport.sandbox.process import Server
from pytest_torchexport.sandbox.session import SandboxSession, Source
from pytest_torchexport.targets.formats.onnx_runtime import LOADER_PATH, open_session


def test_a_torch_that_no_isolated_interpreter_finds_is_there_all_the_same(tmp_path):
    """As with ``pip install --user``, and paths that a cluster or a build system gives."""
    site, own = tmp_path / "site", tmp_path / "own"
    for name, requires in (("torch", "Requires-Dist: beside>1\n"), ("beside", ""), ("other", "")):
        info = site / name / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{requires}"
        )
    own.mkdir()
    code = (
        "from pytest_torchexport.sandbox.libraries import library_directories; "
        "print(*library_directories(), sep='\\n')"
    )
    root = pathlib.Path(process.__file__).parents[2]
    paths = [site / "torch", site / "other", site / "beside", own, root]
    for given, expected in ((paths, [site / "torch", site / "beside"]), ([root], [])):
        found = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, given))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert found.split() == list(map(str, expected))


def test_a_healthy_onnx_file_prints_nothing_and_leaves_no_identifier(tmp_path, monkeypatch):
    """ONNX Runtime's telemetry would write one, and warn on stderr if it cannot."""
    pytest.importorskip("onnxruntime")
    hostile = pytest.importorskip("tests.hostile")
    close()
    source = Source(
        load=f"{LOADER_PATH}.load",
        read=f"{LOADER_PATH}.read",
        library="onnxruntime",
        path=hostile.healthy_onnx(tmp_path),
        home=tmp_path,
        device="cpu",
        memory=MEMORY,
    )
    call = Call((), {"x": torch.ones(1, 3)})
    with SandboxSession(source, 60.0) as session:
        assert session.problem is None
        assert session.found["problems"] == []
        assert run(session, call).value[0].tolist() == [[1, 1, 1]]
        assert session.printed() == ""
    home = Server.of(ONNXRUNTIME).home
    assert not list(home.rglob("deviceid*"))
    assert (home / "server.log").read_text() == ""
    for number in (1, 3):  # it may use the threads that serve it
        monkeypatch.setattr(THREADS, "allowed", number)
        assert open_session(source.path, "cpu").get_session_options().intra_op_num_threads == number
    with SandboxSession(dataclasses.replace(source, threads=2), 60.0) as session:
        assert run(session, call).value[0].tolist() == [[1, 1, 1]]
