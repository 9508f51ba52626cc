"""checks/after_export.py: the last file is judged, and the function that made it wrong is named."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from slow import slow
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.results.failures import SpecError
from pytest_torchexport.results.text import failure_text

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
numpy_helper = pytest.importorskip("onnx.numpy_helper")

pytestmark = pytest.mark.filterwarnings("ignore")
X = torch.linspace(-1.0, 1.0, 32).reshape(4, 8)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def check(after_export, module=None, target="onnx", **options):
    options = {"max_examples": 1, "checks": ("parity",), **options}
    return check_export(module or net(), (X,), target=target, after_export=after_export, **options)


# -- passes ----------------------------------------------------------------------------------------


def fp16(path, made):
    """Weights and nodes in float16, inputs and outputs as they were."""
    model = onnx.load(path)
    graph = model.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), tensor.name))
    casts = {value.name: onnx.TensorProto.FLOAT16 for value in graph.input}
    ends = {value.name: onnx.TensorProto.FLOAT for value in graph.output}
    for node in graph.node:
        node.input[:] = [f"{name}_half" if name in casts else name for name in node.input]
        node.output[:] = [f"{name}_half" if name in ends else name for name in node.output]
    make = onnx.helper.make_node
    first = [make("Cast", [name], [f"{name}_half"], to=to) for name, to in casts.items()]
    last = [make("Cast", [f"{name}_half"], [name], to=to) for name, to in ends.items()]
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, made)


def fp16_of_a_library(path, made):
    float16 = pytest.importorskip("onnxconverter_common", reason=PASSES).float16
    onnx.save(float16.convert_float_to_float16(onnx.load(path), keep_io_types=True), made)


def without_types(path):
    model = onnx.load(path)
    del model.graph.value_info[:]  # the quantizer refuses the exporter's own
    onnx.save(model, path)


def dynamic_int8(path, made):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    without_types(path)
    quantize_dynamic(path, made, weight_type=QuantType.QInt8)


class Calibration:
    def __init__(self):
        drawn = np.random.default_rng(0).standard_normal((40, 4, 8)).astype(np.float32)
        self.calls = iter([{"input": each} for each in drawn])

    def get_next(self):
        return next(self.calls, None)


def static_int8(path, made):
    from onnxruntime.quantization import quantize_static

    without_types(path)
    quantize_static(path, made, Calibration())


def onnxsim(path, made):
    found, is_right = pytest.importorskip("onnxsim", reason=PASSES).simplify(onnx.load(path))
    assert is_right
    onnx.save(found, made)


def onnxslim(path, made):
    onnx.save(pytest.importorskip("onnxslim", reason=PASSES).slim(onnx.load(path)), made)


def optimized(path, made):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(made)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


PASSES = "tox -e runtimes installs it"
OWN = (fp16, dynamic_int8, static_int8, optimized)
OTHERS = (fp16_of_a_library, onnxsim, onnxslim)


@pytest.mark.parametrize("step", [*OWN, *(pytest.param(step, marks=slow) for step in OTHERS)])
def test_the_file_of_a_healthy_pass_is_judged_by_its_own_numbers(step):
    verdict = check(step)
    assert verdict.status == "passed", verdict
    own = {"fp16": "float16", "fp16_of_a_library": "float16", "optimized": ""}
    own |= dict.fromkeys(("dynamic_int8", "static_int8"), "int8")
    numbers = own.get(step.__name__, "")
    assert any(f"the file computes in {numbers}" in note for note in verdict.notes) == bool(numbers)


# -- broken passes ---------------------------------------------------------------------------------


def no_relu(model):
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Identity"


def other_weight(model):
    tensor = max(model.graph.initializer, key=lambda each: np.prod(each.dims))
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] += 1.0
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def other_constant(model):
    name = model.graph.output[0].name
    last = next(node for node in model.graph.node if name in node.output)
    last.output[:] = ["before"]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1.25), "factor"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "factor"], [name]))


def broken(step, edit):
    """Return a pass that does something else beside."""

    def both(path, made):
        model = onnx.load(path)
        edit(model)
        onnx.save(model, path)
        step(path, made)

    both.__name__ = f"{step.__name__}_with_{edit.__name__}"
    return both


EDITS = (no_relu, other_weight, other_constant)
IN_CI = {(fp16, no_relu), (optimized, other_weight)}


@pytest.mark.parametrize(
    ("step", "edit"),
    [
        pytest.param(step, edit, marks=[slow] * ((step, edit) not in IN_CI))
        for step in (*OWN, *OTHERS)
        for edit in EDITS
    ],
)
def test_a_broken_pass_is_red_and_named(step, edit):
    wrong = broken(step, edit)
    verdict = check(wrong)
    assert verdict.failure == "OutputsDiffer", verdict
    assert verdict.diagnosis.owner == "after_export"
    (cause,) = verdict.diagnosis.causes
    assert cause.text.startswith(f"`{wrong.__name__}` changed it: ")
    assert cause.text.endswith("; before it, the file agreed")
    assert cause.where is not None
    assert [stage.agrees for stage in verdict.diagnosis.stages] == [True, True, False]
    assert "export again" not in failure_text(verdict)


def in_place(edit):
    def changed(path):
        model = onnx.load(path)
        edit(model)
        onnx.save(model, path)

    changed.__name__ = edit.__name__
    return changed


@pytest.mark.parametrize(
    ("steps", "guilty"),
    [
        ([fp16, in_place(no_relu)], "no_relu"),
        ([in_place(other_constant), dynamic_int8], "other_constant"),
        pytest.param([in_place(other_constant), fp16, optimized], "other_constant", marks=slow),
    ],
)
def test_the_first_step_that_differs_is_named(steps, guilty):
    verdict = check(steps)
    assert verdict.failure == "OutputsDiffer", verdict
    assert f"`{guilty}` changed it" in verdict.diagnosis.causes[0].text
    names = [stage.name for stage in verdict.diagnosis.stages]
    assert names == ["eager", "the export", *(step.__name__ for step in steps)][: len(names)]
    assert names[-1] == guilty


def fixed_batch(path):
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, path)


def test_a_size_that_a_pass_fixes_is_its_own_doing():
    verdict = check(fixed_batch, checks=("dims", "parity"))
    assert verdict.failure == "DimsNarrowed", verdict
    assert "`fixed_batch` changed it" in verdict.diagnosis.causes[0].text


class Branch(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1


def frozen(path):
    torch.jit.freeze(torch.jit.load(path).eval()).save(str(path))


def test_what_the_export_does_wrong_is_not_blamed_on_a_pass():
    module = nn.Sequential(nn.Linear(8, 4), Branch()).eval()
    verdict = check(frozen, module, target="trace", checks=("control_flow", "parity"))
    assert verdict.failure == "BranchFrozen", verdict
    assert verdict.diagnosis.owner == "model"
    said = "the export itself differs; what after_export does to it is not the cause: frozen"
    assert said in verdict.details


@slow
def test_the_script_shows_the_failure_of_the_last_file(tmp_path):
    verdict = check([fp16, in_place(no_relu)], keep=tmp_path / "kept")
    assert verdict.script
    done = subprocess.run(
        [sys.executable, tmp_path / "kept/reproduce.py"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "The failure is there."
    assert "nothing" not in done.stdout


# -- functions -------------------------------------------------------------------------------------


def tagged(path, tag, to=None):
    model = onnx.load(path, load_external_data=False)
    model.metadata_props.add(key=tag, value="")
    onnx.save(model, to or path)


def returns_nothing(path):
    tagged(path, "in place")


def returns_a_path(path):
    tagged(path, "returned", path.with_name("other.onnx"))
    return str(path.with_name("other.onnx"))


def writes_to_the_second(path, made):
    tagged(path, "made", made)


def test_each_kind_of_function_passes_its_file_on_with_what_lies_beside(tmp_path):
    partial = functools.partial(tagged, tag="partial")
    steps = [returns_nothing, returns_a_path, f"{__name__}:writes_to_the_second", partial]
    ship = tmp_path / "shipped"
    verdict = check(steps, export_options={"onnx": {"external_data": True}}, ship=str(ship))
    assert verdict.status == "passed", verdict
    manifest = json.loads((ship / "torchexport.json").read_text())
    tags = [each.key for each in onnx.load(ship / manifest["file"]).metadata_props]
    assert tags[-4:] == ["in place", "returned", "made", "partial"]
    assert verdict.size.files == sum(
        path.stat().st_size for path in ship.iterdir() if path.name != "torchexport.json"
    )


def test_a_file_that_no_function_changes_is_judged_as_the_export():
    verdict = check([lambda path: path, writes_nothing])
    assert verdict.status == "passed", verdict
    assert "<lambda> and writes_nothing left the file as it was" in verdict.notes


def writes_nothing(path):
    """Leave it."""


def raises(path):
    raise ValueError("not on a Tuesday")


def returns_a_model(path):
    return onnx.load(path)


def returns_no_file(path):
    return path.with_name("gone.onnx")


def encrypts(path):
    return path.rename(path.with_suffix(".bin"))


@pytest.mark.parametrize(
    ("step", "words", "remedy"),
    [
        (raises, "raised ValueError: not on a Tuesday on model.onnx", "run it alone"),
        (returns_a_model, "returned a ModelProto", "return the path"),
        (returns_no_file, "left no file at gone.onnx", "return the path"),
        (encrypts, "made model.bin, which onnx does not load (.onnx)", "leave it out"),
    ],
)
def test_a_function_that_leaves_no_file_is_named_with_the_next_step(step, words, remedy):
    verdict = check(step)
    assert verdict.failure == "ExportRefused", verdict
    assert verdict.reason.startswith(f"`{step.__name__}` of after_export {words}")
    assert verdict.details[0].startswith(f"remedy: {remedy}")
    assert verdict.where.file.endswith("test_after_export.py")
    assert "a function of after_export left no file to judge" in failure_text(verdict)


def damages(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_a_file_that_does_not_load_names_the_function_that_made_it():
    verdict = check([returns_nothing, damages, writes_nothing])
    assert verdict.failure == "LoadFailed", verdict
    said = "`damages` changed it: it does not load; before it, the file loaded"
    assert verdict.diagnosis.causes[0].text == said


def test_a_name_that_is_not_found_is_an_error_of_the_spec():
    verdict = check("os.path:nothing")
    assert verdict.failure == "SpecError"
    assert "os.path:nothing cannot be imported: AttributeError" in verdict.reason
    with pytest.raises(SpecError, match="after_export: 3 is neither a function nor"):
        check([3])


def test_the_latency_is_that_of_the_last_file(monkeypatch):
    from pytest_torchexport.judge.changed_file import ChangedFile

    timed, plain = [], ChangedFile.served
    monkeypatch.setattr(
        ChangedFile, "served", lambda file, call: timed.append(file) or plain(file, call)
    )
    verdict = check(fp16, max_slowdown=float("inf"), shapes={"input": "..."})
    assert verdict.status == "passed", verdict
    assert verdict.latency
    assert timed


def test_a_pass_is_kept_until_a_function_is_another(tmp_path):
    options = {"cache": str(tmp_path / "kept")}
    first, again, other = (check(step, **options) for step in (fp16, fp16, without_types))
    assert (first.status, first.not_kept) == ("passed", ""), first
    assert again.unchanged_since
    assert not other.unchanged_since


def test_a_function_that_goes_elsewhere_or_exits_does_not_take_the_run_along():
    def inside(path):
        os.chdir(path.parent)
        return path.name

    def exits(path):
        sys.exit(3)

    here = Path.cwd()
    assert check(inside).status == "passed"
    assert Path.cwd() == here
    verdict = check(exits)
    assert verdict.failure == "ExportRefused", verdict
    assert "`exits` of after_export raised SystemExit: 3" in verdict.reason
