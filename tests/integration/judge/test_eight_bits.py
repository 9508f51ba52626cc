"""judge/eight_bits.py: healthy quantized files pass, and broken ones fail with a cause if it is known."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from pytest_torchexport import engine
from pytest_torchexport.config.options import parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.eight_bits import in_eight_bits
from pytest_torchexport.outcomes.torch_state import quiet

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


@pytest.fixture(scope="module", params=MODELS)
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
