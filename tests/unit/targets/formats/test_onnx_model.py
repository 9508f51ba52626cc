"""targets/formats/onnx_model.py without torch: what a file contains, needs, and has wrong."""

from __future__ import annotations

import importlib.util

import pytest

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("onnxscript") is None, reason="needs the extra [onnx]"
    ),
    pytest.mark.filterwarnings("ignore"),
]
onnx = pytest.importorskip("onnx")

from onnx_by_hand import FLOAT, model, tensor, written  # noqa: E402

from pytest_torchexport.targets.formats import onnx_model  # noqa: E402
from pytest_torchexport.targets.formats.onnx_model import external, problems  # noqa: E402

helper = onnx.helper


def constant(value: onnx.TensorProto, output: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [output], value=value)


# -- what belongs to it ----------------------------------------------------------------------------


def test_external_data_is_found_wherever_a_model_can_hold_a_tensor(tmp_path):
    branch = helper.make_graph(
        [constant(tensor(location="branch"), "z")],
        "branch",
        [],
        [helper.make_tensor_value_info("z", FLOAT, [4])],
        [tensor(location="in branch")],
    )
    made = model(
        constant(tensor(location="attribute"), "a"),
        helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=branch),
        weights=(tensor(location="initializer"),),
    )
    sparse = onnx.SparseTensorProto(dims=[4])
    sparse.values.CopyFrom(tensor(location="sparse"))
    made.graph.sparse_initializer.append(sparse)
    made.functions.append(
        helper.make_function(
            "team", "F", [], ["a"], [constant(tensor(location="function"), "a")], []
        )
    )
    path = written(tmp_path, made, data=None)
    assert external(path) == [
        "attribute",
        "branch",
        "function",
        "in branch",
        "initializer",
        "sparse",
    ]


# -- what is wrong with it -------------------------------------------------------------------------


def test_external_data_beside_the_model_is_no_problem_also_through_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    written(tmp_path / "real", model(weights=(tensor(),)))
    assert problems(tmp_path / "link" / "model.onnx") == []


@pytest.mark.parametrize(
    "location", ["absent", "../w.data", "inner/../../w.data", "/etc/passwd", "", "w" * 5000, "ring"]
)
def test_data_that_is_not_beside_the_model_is_told_though_it_is_there(tmp_path, location):
    inside = tmp_path / "model"
    (inside / "inner").mkdir(parents=True)
    (inside / "ring").symlink_to(inside / "ring")
    (tmp_path / "w.data").write_bytes(bytes(16))
    (found,) = problems(written(inside, model(weights=(tensor(location=location),)), data=None))
    assert found.startswith("onnx.checker refuses model.onnx: ")
    assert len(found) < 600


def test_what_is_no_model_or_breaks_the_format_is_told(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff" * 100)
    assert "model.onnx is no ONNX model" in problems(path)[0]
    assert "absent.onnx is no ONNX model" in problems(tmp_path / "absent.onnx")[0]
    path.write_bytes(b"")
    assert "onnx.checker refuses model.onnx" in problems(path)[0]
    (found,) = problems(written(tmp_path, model(helper.make_node("Nonsense", ["x"], ["z"]))))
    assert "onnx.checker refuses model.onnx: No Op registered for Nonsense" in found
    wrong = model()
    wrong.graph.output[0].type.tensor_type.shape.dim.add(dim_value=7)
    assert "onnx.checker refuses" in problems(written(tmp_path, wrong))[0]


def test_nodes_that_a_runtime_sorts_itself_are_no_problem(tmp_path):
    unsorted = model(
        helper.make_node("Exp", ["late"], ["z"]), helper.make_node("Exp", ["x"], ["late"])
    )
    assert problems(written(tmp_path, unsorted)) == []


# -- what it says of itself ------------------------------------------------------------------------


def test_what_a_node_decides_on_is_named_with_what_it_is_made_of():
    nodes = (
        helper.make_node("Mul", ["y", "y"], ["square"]),
        helper.make_node("Div", ["square", "x"], ["quotient"]),
        helper.make_node("Floor", ["quotient"], ["whole"]),
        helper.make_node("Exp", ["whole"], ["unused"]),
    )
    assert onnx_model.decided_on(model(*nodes)) == ["quotient", "square"]
    assert onnx_model.decided_on(model()) == []


def test_nodes_that_may_be_fused_are_not_parted_by_what_is_named():
    nodes = (
        helper.make_node("Mul", ["y", "y"], ["square"]),
        helper.make_node("Erf", ["square"], ["smooth"]),
        helper.make_node("Cast", ["smooth"], ["half"], to=onnx.TensorProto.BFLOAT16),
        helper.make_node("Cast", ["half"], ["back"], to=onnx.TensorProto.FLOAT),
    )
    assert onnx_model.decided_on(model(*nodes)) == ["smooth", "half"]


def test_a_pooling_decides_if_it_returns_indices():
    nodes = (
        helper.make_node("MaxPool", ["x"], ["pooled"], kernel_shape=[2]),
        helper.make_node("Exp", ["pooled"], ["heat"]),
        helper.make_node("MaxPool", ["heat"], ["largest", "places"], kernel_shape=[2]),
        helper.make_node("MaxPool", ["largest"], ["unused"], kernel_shape=[2]),
    )
    assert onnx_model.decided_on(model(*nodes)) == ["heat", "pooled"]
