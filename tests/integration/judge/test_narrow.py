"""judge/narrow.py: healthy quantized files pass, and broken ones fail with a cause if it is known."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from slow import slow
from torch import nn

from pytest_torchexport import engine
from pytest_torchexport.config.options import parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge import narrow
from pytest_torchexport.judge.narrow import in_eight_bits
from pytest_torchexport.outcomes.torch_state import quiet
from pytest_torchexport.targets.formats import onnx_model

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Mlp(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        return super().forward(x)


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        found = self.head(self.inner(x).mean(1))
        return found, found.argmax(-1)


MODELS = {
    "mlp": (Mlp, (4, 32)),
    "cnn": (Cnn, (2, 3, 12, 12)),
    "attention": (Attention, (2, 6, 16)),
}


def drawn(shape, number):
    return torch.randn(shape, generator=torch.Generator().manual_seed(number))


EACH = ["mlp", *(pytest.param(name, marks=slow) for name in MODELS if name != "mlp")]


@pytest.fixture(scope="module", params=EACH)
def floats(request, tmp_path_factory):
    """Return a module, the shape of its call, and its file in float32."""
    make, shape = MODELS[request.param]
    torch.manual_seed(0)
    module, path = make().eval(), tmp_path_factory.mktemp(request.param) / "float.onnx"
    with quiet("cpu"):
        torch.onnx.export(
            module, (drawn(shape, 0),), path, dynamo=True, dynamic_shapes=({0: "batch"},),
            input_names=["x"], verbose=False, external_data=False,
        )  # fmt: skip
    file = onnx.load(path)
    del file.graph.value_info[:]  # quantize_dynamic refuses the exporter's own
    onnx.save(file, path)
    return module, shape, path


def static(floats, path, scale=1.0, edit=None):
    """Write a file that is calibrated on numbers of a scale, and edited then."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    _, shape, source = floats

    class Calls(CalibrationDataReader):
        left = iter([{"x": (drawn(shape, 9 + n) * scale).numpy()} for n in range(32)])

        def get_next(self):
            return next(self.left, None)

    quantize_static(
        source, path, Calls(), per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    if edit is not None:
        file = onnx.load(path)
        edit(file, {tensor.name: tensor for tensor in file.graph.initializer})
        onnx.save(file, path)
    return path


def put(tensor, array):
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def last_weight(held):
    return [n for n, t in held.items() if t.data_type == TensorProto.INT8 and len(t.dims) > 1][-1]


def other_scale(file, held):
    scale = held[last_weight(held).replace("_quantized", "_scale")]
    put(scale, numpy_helper.to_array(scale) * np.float32(1.5))


def cut_weight(file, held):
    weight = held[last_weight(held)]
    put(weight, np.clip(numpy_helper.to_array(weight), -32, 32).astype(np.int8))


def rows_changed(file, held):
    weight = held[last_weight(held)]
    put(weight, np.roll(numpy_helper.to_array(weight), 1, axis=0))


def other_zero_point(file, held):
    """Of the last activation that is read again, where it is read alone."""
    node = [
        n for n in file.graph.node if n.op_type == "DequantizeLinear" and n.input[0] not in held
    ][-1]
    zero = copy.deepcopy(held[node.input[2]])
    put(zero, (numpy_helper.to_array(zero).astype(int) - 20).clip(0).astype(np.uint8))
    zero.name += "_other"
    node.input[2] = zero.name
    file.graph.initializer.append(zero)


def checked(floats, path, **options):
    module, shape, _ = floats
    plan = Plan(
        target="onnx",
        device="cpu",
        options=parse_check_options(options),
        settings=Settings(),
        seed=3,
    )
    return engine.check_artifact(path, module, Call((drawn(shape, 0),)), plan)


def test_a_healthy_file_passes_and_says_how_far_off_it_is(floats, tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    dynamic = tmp_path / "dynamic.onnx"
    quantize_dynamic(floats[2], dynamic, weight_type=QuantType.QInt8)
    for path in (dynamic, static(floats, tmp_path / "static.onnx")):
        verdict = checked(floats, path)
        assert verdict.status == "passed", verdict
        assert any("computes in int8" in note for note in verdict.notes)
        assert any("in the median of 24 calls like the example" in note for note in verdict.notes)
    # No one tolerance for each element is right for all files.
    assert checked(floats, path, rtol=1e-6, atol=1e-5).failure == "OutputsDiffer"


@pytest.mark.parametrize("edit", [other_scale, cut_weight, rows_changed, other_zero_point])
def test_a_broken_file_fails(floats, tmp_path, edit):
    verdict = checked(floats, static(floats, tmp_path / "broken.onnx", edit=edit))
    assert verdict.failure == "OutputsDiffer", verdict
    assert "eager with numbers in eight bits" in verdict.reason
    assert verdict.differences
    assert verdict.diagnosis.causes == ()


def test_a_file_that_was_calibrated_to_other_numbers_fails_with_the_range(floats, tmp_path):
    verdict = checked(floats, static(floats, tmp_path / "narrow.onnx", scale=0.1))
    assert verdict.failure == "OutputsDiffer", verdict
    (cause,) = verdict.diagnosis.causes
    assert cause.kind == "calibration"
    assert "of x, and the test's own numbers reach" in cause.text


def test_what_is_no_matter_of_numbers_is_judged_as_ever(floats, tmp_path):
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = floats[0]

        def forward(self, x):
            found = self.inner(x)
            return (
                found.flatten()
                if isinstance(found, torch.Tensor)
                else (found[0].flatten(), found[1])
            )

    path = static(floats, tmp_path / "static.onnx")
    verdict = checked((Beside(), *floats[1:]), path)
    assert verdict.failure == "OutputsDiffer", verdict
    assert [item.kind for item in verdict.differences] == ["shape"]


def test_eager_in_eight_bits_has_256_steps():
    x = torch.linspace(0, 1, 10_000).view(1, -1)
    with in_eight_bits():
        found = (x * 1.0).unique()
    assert len(found) == 256
    torch.testing.assert_close(found, torch.arange(256) / 255)


# -- half precision --------------------------------------------------------------------------------


class Scaled(nn.Module):
    """A sum of squares, which is beyond the largest float16 from numbers of about 30 on."""

    def forward(self, x):
        return x / (x * x).sum(-1, keepdim=True).sqrt().clamp(min=1e-3)


def half_of(module, x, path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet("cpu"):
        torch.onnx.export(
            module, (x,), path, dynamo=True, dynamic_shapes=({0: "batch"},),
            input_names=["x"], verbose=False, external_data=False,
        )  # fmt: skip
    file = convert_float_to_float16(onnx.load(path), keep_io_types=True)
    known = {"", *(each.name for each in (*file.graph.initializer, *file.graph.input))}
    nodes = list(file.graph.node)
    del file.graph.node[:]  # the converter leaves them out of order
    while nodes:
        node = next(each for each in nodes if known.issuperset(each.input))
        nodes.remove(node)
        known.update(node.output)
        file.graph.node.append(node)
    onnx.save(file, path)
    return path


@pytest.mark.parametrize("name", EACH)
def test_a_healthy_half_precision_file_passes(tmp_path, name):
    make, shape = MODELS[name]
    torch.manual_seed(0)
    module = make().eval()
    verdict = checked(
        (module, shape, None), half_of(module, drawn(shape, 0), tmp_path / "half.onnx")
    )
    assert verdict.status == "passed", verdict
    assert any("computes in float16" in note for note in verdict.notes)
    assert verdict.cautions == ()


@pytest.mark.parametrize(("scale", "status"), [(1, "passed"), (25, "failed")])
def test_an_overflow_that_onnx_runtime_does_not_have_is_found_with_its_operator(
    tmp_path, scale, status
):
    x = drawn((4, 96), 0) * scale
    plan = Plan(target="onnx", device="cpu", settings=Settings(), seed=3)
    path = half_of(Scaled(), x, tmp_path / "half.onnx")
    verdict = engine.check_artifact(path, Scaled(), Call((x,)), plan)
    assert verdict.status == status, verdict
    told = "aten.sum is beyond 65504, the largest number of float16"
    if status == "passed":
        (caution,) = verdict.cautions
        assert "at numbers 30 times the example's" in caution
        assert told in caution
    else:
        assert [cause.text for cause in verdict.diagnosis.causes] == [told]
        assert "return x / (x * x).sum(" in verdict.where.text


@pytest.mark.parametrize(
    ("module", "x", "owner"),
    [
        # ONNX Runtime adds int64 in float64.
        ("sum", torch.tensor([[2**53 + 1, 1, 1], [3, 2, 1]]), "runtime"),
        ("relu", torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), "file"),
    ],
)
def test_onnx_reference_tells_a_wrong_file_from_a_wrong_runtime(tmp_path, module, x, owner):
    def of_rows(x):
        return x.sum() if module == "sum" else nn.functional.leaky_relu(x)

    kind = TensorProto.INT64 if module == "sum" else TensorProto.FLOAT
    node = {"sum": ("ReduceSum", {"keepdims": 0}), "relu": ("Relu", {})}[module]
    shape = [] if module == "sum" else ["batch", 3]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(node[0], ["x"], ["y"], **node[1])],
        "graph",
        [onnx.helper.make_tensor_value_info("x", kind, ["batch", 3])],
        [onnx.helper.make_tensor_value_info("y", kind, shape)],
    )
    path = tmp_path / "file.onnx"
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    plan = Plan(
        target="onnx", device="cpu", options=parse_check_options({"checks": "parity"}), seed=3
    )
    verdict = engine.check_artifact(path, of_rows, Call((x,)), plan)
    assert (verdict.failure, verdict.diagnosis.owner) == ("OutputsDiffer", owner), verdict


# -- outputs of every kind -------------------------------------------------------------------------


class Outputs(nn.Module):
    """A linear layer's result, and another output that a file of its own has to match."""

    def __init__(self, more):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.more = nn.Linear(16, 8), more

    def forward(self, x):
        y = self.fc(x)
        return y, self.more(y)


def by_hand(module, tmp_path, more=(), *, of=None):
    """Return a file in eight bits of the linear layer; ``more`` nodes make ``z`` of ``y``."""
    weight = module.fc.weight.detach().numpy().T
    scale = np.float32(np.abs(weight).max() / 127)
    held = {
        "w": (weight / scale).round().astype(np.int8), "s": scale, "b": module.fc.bias.detach().numpy(),
        "zero": np.zeros((), np.int8), **(of or {}),
    }  # fmt: skip
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["w", "s", "zero"], ["v"]),
        onnx.helper.make_node("Gemm", ["x", "v", "b"], ["y"]),
        *more,
    ]
    with torch.no_grad():
        _, made = module(drawn((4, 16), 0))
    shape = ["batch", *made.shape[1:]] if len(made) == 4 else list(made.shape)
    kind = TensorProto.FLOAT if made.is_floating_point() else TensorProto.INT64
    outputs = [("y", TensorProto.FLOAT, ["batch", 8]), ("z", kind, shape)]
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [onnx.helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()],
    )
    path, opset = tmp_path / "file.onnx", onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return checked((module, (4, 16), None), path)


def node(kind, inputs, **attributes):
    return onnx.helper.make_node(kind, inputs, ["z"], **attributes)


LARGE = {"k": np.float32(1000)}


@pytest.mark.parametrize(
    ("more", "nodes", "held", "failure"),
    [
        (lambda y: y.argmax(-1), [node("ArgMax", ["y"], axis=-1, keepdims=0)], None, None),
        (lambda y: y.argmin(-1), [node("ArgMax", ["y"], axis=-1, keepdims=0)], None, "OutputsDiffer"),
        (lambda y: y * 0.0, [node("Mul", ["y", "k"])], LARGE, "OutputsDiffer"),
        (lambda y: y * 1000.0, [node("Mul", ["y", "k"])], LARGE, None),
        (lambda y: torch.where(y > 9, y, torch.inf), [node("Identity", ["y"])], None, "OutputsDiffer"),
        (lambda y: y.new_full((1, 1), torch.nan), [node("Log", ["k"])], {"k": np.full((1, 1), -1, np.float32)}, None),
    ],
    ids=["the likeliest", "the least", "zeros", "large", "infinite", "nan"],
)  # fmt: skip
def test_each_output_is_judged_by_its_kind(tmp_path, more, nodes, held, failure):
    verdict = by_hand(Outputs(more), tmp_path, nodes, of=held)
    assert verdict.failure == failure, verdict


def test_too_few_calls_to_judge_by_are_a_doubt(tmp_path, monkeypatch):
    def raises():
        raise ValueError("not with such numbers")

    monkeypatch.setattr(narrow, "in_eight_bits", raises)
    verdict = by_hand(Outputs(nn.Identity()), tmp_path, [node("Identity", ["y"])])
    told = "was judged in 0 calls like the example, too few for eight bits: eager does not return"
    assert [told in text for text in verdict.ineffective] == [True, True], verdict


@pytest.mark.parametrize(
    ("types", "operator", "precision"),
    [
        ([TensorProto.FLOAT], "Gemm", ""),
        ([TensorProto.FLOAT16], "Gemm", "float16"),
        ([TensorProto.BFLOAT16], "Gemm", "bfloat16"),
        ([TensorProto.FLOAT, TensorProto.INT8], "DequantizeLinear", "int8"),
        ([TensorProto.FLOAT, TensorProto.UINT8], "QuantizeLinear", "int8"),
        ([TensorProto.FLOAT, TensorProto.INT8], "DynamicQuantizeMatMul", "int8"),
        ([TensorProto.FLOAT, TensorProto.INT8], "MatMulInteger", "int8"),
        # Others are judged as floats, element by element.
        ([TensorProto.FLOAT, TensorProto.INT4], "DequantizeLinear", ""),
        ([TensorProto.FLOAT, TensorProto.INT16], "DequantizeLinear", ""),
        ([TensorProto.FLOAT, TensorProto.FLOAT8E4M3FN], "QuantizeLinear", ""),
    ],
)
def test_a_model_says_in_which_numbers_it_computes(types, operator, precision):
    tensors = [
        onnx.TensorProto(name=f"t{n}", data_type=kind, dims=[2, 2]) for n, kind in enumerate(types)
    ]
    nodes = [onnx.helper.make_node(operator, [tensor.name for tensor in tensors], ["y"])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], [], tensors))
    assert onnx_model.precision(model) == precision
    assert onnx_model.ranges(model) == {}
