"""targets/openvino.py: what is faithful passes, and each difference has its owner and, if known, its reason."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from small_models import of
from torch import nn
from upstream_examples import example

from pytest_torchexport import check_export, engine
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.targets.upstream import rows

pytest.importorskip("openvino", reason="openvino is not installed: tox -e runtimes")

DIMS = {"batch": (1, 8)}
DEFECTS = [row for row in rows("known_defects") if "openvino" in row.targets]


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 4)
    ).eval()


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def check(module, x, target="openvino", **options):
    return check_export(module, (x,), target=target, dims=DIMS, **options)


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (net(), drawn(4, 16)),
        (
            nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            ).eval(),
            drawn(2, 3, 9, 9),
        ),
        (of(lambda x: (x - 20) // 3), torch.randint(0, 40, (4, 8))),
        (
            of(lambda x: {"top": x.topk(3).indices, "sum": x.sum(-1)}),
            torch.randint(0, 3, (4, 8)).float(),
        ),
        (of(lambda x: (x, x.sum())), drawn(4, 8)),
        (of(lambda x: (x * 2).abs()), torch.complex(drawn(4, 8), drawn(4, 8))),
        (of(lambda x: nn.functional.unfold(x, 2)), drawn(2, 3, 5, 5)),
    ],
)
def test_what_is_faithful_passes(module, x):
    verdict = check(module, x)
    assert verdict.status == "passed", verdict
    assert "OpenVINO computes in f32" in verdict.notes
    assert not [note for note in verdict.notes if "round trip" in note]


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({"precision": "bf16"}, "bfloat16"),
        ({"precision": "f16"}, "float16"),
        ({"compress_to_fp16": True}, "float16"),
    ],
)
def test_a_precision_that_is_asked_for_is_no_failure(options, precision):
    verdict = check(net(), drawn(4, 16), export_options={"openvino": options})
    if "on this CPU" in verdict.reason:
        assert verdict.failure == "ExportRefused"
        pytest.skip(verdict.reason)
    assert verdict.status == "passed", verdict
    assert any(precision in note for note in verdict.notes), verdict.notes


@pytest.mark.parametrize("options", [{"precision": "fp32"}, {"compress_to_fp16": "yes"}])
def test_a_wrong_option_is_refused_with_its_name(options):
    verdict = check(net(), drawn(4, 16), export_options={"openvino": options})
    assert verdict.failure == "ExportRefused"
    assert next(iter(options)) in verdict.reason


@pytest.mark.parametrize("row", DEFECTS, ids=lambda row: row.name)
def test_a_difference_has_its_reason(row, tmp_path):
    module, call = example(row.example, tmp_path)
    verdict = check_export(module, call, target="openvino", checks=["parity"], max_examples=1)
    assert verdict.failure == "OutputsDiffer", verdict
    assert [known.text for known in verdict.diagnosis.known] == [row.cause], verdict.diagnosis
    steps = [(stage.name, stage.agrees) for stage in verdict.diagnosis.stages]
    assert steps[-1] == ("OpenVINO", False)
    assert ("ONNX by ONNX Runtime", True) in steps


def test_the_script_of_a_failure_loads_the_file_with_the_precision(tmp_path):
    module, options = of(lambda x: (x.long() * 2**31).float()), {"openvino": {"precision": "bf16"}}
    keep = tmp_path / "kept"
    x = drawn(4, 8) * 9
    verdict = check_export(
        module, (x,), target="openvino", export_options=options, keep=keep, max_examples=1
    )
    assert verdict.failure == "OutputsDiffer", verdict
    script = keep / "reproduce.py"
    assert "asked = {'precision': 'bf16'}" in script.read_text()
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, "The failure is there." in done.stdout) == (1, True), done


def test_what_the_onnx_file_has_wrong_is_not_openvinos():
    module = of(lambda x: (x + 1e-9).sum(1) - x.sum(1))  # the file has the number in float32
    verdict = check(module, drawn(4, 8).double())
    assert (verdict.failure, verdict.diagnosis.owner) == ("OutputsDiffer", "translation"), verdict


def test_a_declared_dim_is_a_bound_of_the_model():
    from pytest_torchexport import targets
    from pytest_torchexport.config.options import parse_options
    from pytest_torchexport.inputs.spec import build_spec
    from pytest_torchexport.outcomes.subject import signature_of
    from pytest_torchexport.outcomes.torch_state import quiet

    options = parse_options((), {"dims": DIMS, "shapes": {"x": "batch 8"}})
    model = of(lambda x: x * 2).eval()
    spec = build_spec(signature_of(model), [Call((drawn(4, 8),))], options, {})
    with quiet("cpu"):
        artifact = targets.get("openvino").export(model, Call((drawn(4, 8),)), spec)
    assert str(artifact.program.inputs[0].get_partial_shape()) == "[1..8,8]"
    with pytest.raises(RuntimeError):
        artifact(drawn(9, 8))


# -- the module itself -----------------------------------------------------------------------------


class Keywords(nn.Module):
    def forward(self, x, *, a, k=2):
        return {"sum": x + a * k, "all": [x.sum(1), x.shape[0], None]}


def test_a_module_is_converted_with_its_keywords_and_its_structure():
    x, shapes = drawn(4, 8), {"x": "batch 8", "a": "batch 8"}
    kwargs = {"a": x + 1, "k": 3}
    verdict = check(Keywords().eval(), x, "openvino_trace", kwargs=kwargs, shapes=shapes)
    assert (verdict.status, len(verdict.reached["batch"])) == ("passed", 8), verdict


def test_a_branch_of_a_module_is_the_traces():
    verdict = check(of(lambda x: x if x.sum() > 0 else -x), drawn(4, 8), "openvino_trace")
    steps = [(stage.name, stage.agrees) for stage in verdict.diagnosis.stages]
    assert (verdict.failure, steps) == ("OutputsDiffer", [("eager", True), ("trace", False)])
    assert verdict.diagnosis.causes[0].kind == "frozen branch"


def test_a_file_of_somebody_else_is_judged_with_its_weights(tmp_path):
    import openvino

    x, path = drawn(4, 16), tmp_path / "model.xml"
    model = openvino.convert_model(net(), example_input=x, input=[openvino.PartialShape([-1, 16])])
    openvino.save_model(model, str(path), compress_to_fp16=False)

    def judged(path, module):
        plan = Plan(target="openvino", device="cpu", root=tmp_path)
        return engine.check_artifact(path, module, Call((x,)), plan)

    assert judged(path, net()).status == "passed"
    other = net()
    other[0].weight.data[0] += 0.1
    assert judged(path, other).failure == "OutputsDiffer"
    alone = tmp_path / "alone" / "model.xml"
    alone.parent.mkdir()
    alone.write_bytes(path.read_bytes())
    verdict = judged(alone, net())
    assert verdict.failure == "LoadFailed"
    assert "wants data from model.bin, which is not beside it" in verdict.reason
