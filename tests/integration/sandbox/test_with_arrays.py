"""sandbox/with_arrays.py: a file of ONNX Runtime in a process without torch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from in_sandbox import MEMORY, ONNXRUNTIME, close, run

from pytest_torchexport.inputs.call import Call
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.sandbox.libraries import THREADS
from pytest_torchexport.sandbox.process import Server
from pytest_torchexport.sandbox.session import SandboxSession, Source
from pytest_torchexport.targets.formats.onnx_runtime import LOADER_PATH, open_session

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
X = torch.tensor([1.0, 2.0])


@pytest.fixture
def source(tmp_path):
    """A healthy ONNX file: ``relu(x)``."""
    axes = onnx.TensorProto.FLOAT, ["n"]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", *axes)], [value("y", *axes)]
    )
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    return Source(
        load=f"{LOADER_PATH}.load",
        read=f"{LOADER_PATH}.read",
        library="onnxruntime",
        path=tmp_path / "m.onnx",
        home=tmp_path,
        device="cpu",
        memory=MEMORY,
    )


def test_a_healthy_file_prints_nothing_and_leaves_no_identifier(source):
    """ONNX Runtime's telemetry would write one, and warn on stderr if it cannot."""
    close()
    with SandboxSession(source, 60.0) as session:
        assert session.problem is None
        assert session.found["problems"] == []
        outcome = run(session, Call((), {"x": torch.tensor([-1.0, 1.0])}))
        assert isinstance(outcome, Returned)
        assert outcome.value[0].tolist() == [0, 1]
        assert session.printed() == ""
    home = Server.of(ONNXRUNTIME).home
    assert not list(home.rglob("deviceid*"))
    assert (home / "server.log").read_text() == ""


FUNCTIONS = "pytest_torchexport.targets.formats.onnx_model"


def test_a_session_may_use_the_threads_that_serve_it(source, monkeypatch):
    for number in (1, 3):
        monkeypatch.setattr(THREADS, "allowed", number)
        assert open_session(source.path, "cpu").get_session_options().intra_op_num_threads == number
    with SandboxSession(dataclasses.replace(source, threads=2), 60.0) as session:
        assert run(session, Call((), {"x": X})).value[0].tolist() == X.tolist()
