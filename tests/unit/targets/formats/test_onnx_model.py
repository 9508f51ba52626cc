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


def test_a_model_that_holds_its_data_names_none(tmp_path):
    assert external(written(tmp_path, model())) == []


# -- what is wrong with it -------------------------------------------------------------------------


def test_external_data_beside_the_model_is_no_problem(tmp_path):
    assert problems(written(tmp_path, model(weights=(tensor(),)))) == []


def test_missing_data_is_told_with_what_to_do(tmp_path):
    path = written(tmp_path, model(weights=(tensor(),)), data=None)
    (found,) = problems(path)
    assert found.startswith("external data 'w.data' is missing: move it together with the model")


@pytest.mark.parametrize("location", ["../w.data", "inner/../../w.data"])
def test_data_outside_the_directory_is_told_though_it_is_there(tmp_path, location):
    inside = tmp_path / "model"
    (inside / "inner").mkdir(parents=True)
    (tmp_path / "w.data").write_bytes(bytes(16))
    path = written(inside, model(weights=(tensor(location=location),)), data=None)
    (found,) = problems(path)
    assert "lies outside the model's directory" in found


@pytest.mark.parametrize("location", ["/etc/passwd", "C:\\weights\\w.data", "\\\\host\\w.data"])
def test_an_absolute_path_is_told_whatever_system_it_is_of(tmp_path, location):
    (found,) = problems(written(tmp_path, model(weights=(tensor(location=location),))))
    assert "is an absolute path" in found


def test_a_link_out_of_the_directory_is_outside(tmp_path):
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "elsewhere").write_bytes(bytes(16))
    (inside / "w.data").symlink_to(tmp_path / "elsewhere")
    (found,) = problems(written(inside, model(weights=(tensor(),)), data=None))
    assert "lies outside the model's directory" in found


def test_a_model_that_is_reached_through_a_link_is_healthy(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    written(tmp_path / "real", model(weights=(tensor(),)))
    assert problems(tmp_path / "link" / "model.onnx") == []


def test_data_that_is_cut_off_is_told_with_its_size(tmp_path):
    weights = (tensor(), tensor("v", offset="16"))
    (found,) = problems(written(tmp_path, model(weights=weights), data=20))
    assert "has 20 bytes, and 'v' ends at 32" in found


@pytest.mark.parametrize("entries", [{"offset": "-8"}, {"length": "x"}, {"offset": "9" * 5000}])
def test_an_offset_that_is_none_is_told(tmp_path, entries):
    (found,) = problems(written(tmp_path, model(weights=(tensor(**entries),))))
    assert "has no legal offset and length for 'w'" in found


@pytest.mark.parametrize("location", ["", ".", "w\0.data", "w" * 5000, "ring"])
def test_a_location_that_is_no_file_is_told(tmp_path, location):
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    (found,) = problems(written(tmp_path, model(weights=(tensor(location=location),))))
    assert found.startswith("external data")
    assert found.endswith("save the model again") or "is missing" in found


TEXTS = {
    "StringSplit": {"delimiter": "/"},
    "RegexFullMatch": {"pattern": "/.*"},
    "Constant": {"value_string": "/start"},
}


@pytest.mark.parametrize(("operator", "attributes"), TEXTS.items(), ids=TEXTS)
def test_texts_of_onnx_own_operators_are_no_paths(operator, attributes):
    node = helper.make_node(operator, [], ["c"], **attributes)
    assert list(onnx_model._absolute_attributes(model(node))) == []


def test_an_absolute_path_in_an_attribute_is_told(tmp_path):
    node = helper.make_node("EPContext", [], ["c"], domain="com.microsoft", source="/home/me/c.bin")
    made = model(node)
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    (found,) = problems(written(tmp_path, made))
    assert "has the absolute path '/home/me/c.bin' as its 'source'" in found


def test_what_is_no_model_is_told(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff" * 100)
    assert "is no ONNX model" in problems(path)[0]
    assert "is no ONNX model" in problems(tmp_path / "absent.onnx")[0]
    path.write_bytes(b"")
    assert "onnx.checker refuses model.onnx" in problems(path)[0]


def test_a_model_that_breaks_the_format_is_told_in_the_checkers_words(tmp_path):
    (found,) = problems(written(tmp_path, model(helper.make_node("Nonsense", ["x"], ["z"]))))
    assert "onnx.checker refuses model.onnx: No Op registered for Nonsense" in found
    wrong = model()
    wrong.graph.output[0].type.tensor_type.shape.dim.add(dim_value=7)
    assert "onnx.checker refuses" in problems(written(tmp_path, wrong))[0]


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
