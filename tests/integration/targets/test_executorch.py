"""targets/executorch.py: what is faithful passes, layouts and files are as its runtime has them, errors have reasons."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
from slow import slow
from small_models import Counter, cnn
from torch import nn

from pytest_torchexport import check_export, engine, targets
from pytest_torchexport.config.options import parse_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.targets import executorch
from pytest_torchexport.torch_private import compiled

TARGET = targets.get("executorch")
MISSING = TARGET.unavailable("cpu")
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
DIMS = {"batch": (1, 8)}


def lowers(test):
    """The first item takes 10 seconds, the others one or two."""
    return slow(pytest.mark.skipif(MISSING is not None, reason=str(MISSING))(test))


class Keywords(nn.Module):
    def forward(self, x, *, a, b):
        return {"difference": x - a, "all": [x, b * 2]}, x.shape[0], None


class Net(nn.Module):
    def __init__(self, error=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
        self.layers[0].weight.data[0] += error

    def forward(self, x, *, scale):
        return {"scaled": self.layers(x) * scale, "x": x}


class Side(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, torch.exp, torch.sin, (x,))


class Scaled(nn.Module):
    def forward(self, x, k: int):
        return x * k


class InPlace(nn.Module):
    def forward(self, x):
        x.add_(1)
        return x * 2


def check(module, *args, dims=DIMS, **options):
    return check_export(module.eval(), args, target="executorch", dims=dims, **options)


PORTABLE = {"executorch": {"backend": "portable"}}
KEYWORDS = {
    "kwargs": {"b": X * 2, "a": X + 1},
    "shapes": {"x": "batch 8", "a": "batch 8", "b": "batch 8"},
}


@lowers
@pytest.mark.parametrize(
    ("module", "args", "options"),
    [
        (cnn(), (IMAGE,), {}),
        (cnn(), (IMAGE,), {"export_options": PORTABLE}),
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            (X.reshape(2, 2, 8),),
            {"shapes": {"src": "batch time 8"}, "dims": {**DIMS, "time": (1, 9)}},
        ),
        (Keywords(), (X,), KEYWORDS),
        (Counter(), (X,), {}),
        (Side(), (X,), {}),
        (Scaled(), (X[:1], 3), {}),
        (nn.Embedding(10, 4), (torch.arange(8).reshape(2, 4),), {}),
    ],
)
def test_what_is_faithful_passes(module, args, options):
    verdict = check(module, *args, **options)
    assert verdict.status == "passed", verdict
    assert verdict.reached["batch"] == tuple(range(1, 9))


@lowers
def test_a_dim_that_nobody_declared_has_room_for_all_sizes_that_are_drawn():
    verdict = check(cnn(), IMAGE, dims={})
    assert (verdict.status, len(verdict.reached["batch"]) > 2) == ("passed", True), verdict


@lowers
def test_the_layout_of_the_example_is_that_of_the_file():
    last = IMAGE.contiguous(memory_format=torch.channels_last)
    notes = [note for note in check(cnn(), last).notes if "is read as" in note]
    assert ["channels_last, as in the example: a contiguous one" in note for note in notes] == [
        True
    ]
    verdict = check(nn.Linear(8, 4), X.t().contiguous().t())  # no call of which is served right
    assert verdict.failure == "ArtifactRaised", verdict
    (cause,) = verdict.diagnosis.causes
    assert cause.kind == "memory layout"


@lowers
def test_a_buffer_that_forward_changes_begins_anew_unless_a_pass_keeps_it():
    from executorch.exir import ExecutorchBackendConfig
    from executorch.exir.passes.init_mutable_pass import InitializedMutableBufferPass

    verdict = check(Counter(start=5.0), X)
    assert verdict.failure == "OutputsDiffer", verdict
    (caution,) = verdict.cautions
    assert "does not keep what n begins with" in caution
    options = {"config": ExecutorchBackendConfig(passes=[InitializedMutableBufferPass(["n"])])}
    verdict = check(Counter(start=5.0), X, export_options={"executorch": options})
    assert (verdict.status, verdict.cautions) == ("passed", ()), verdict


class Split(nn.Module):
    def forward(self, x):
        left, right = x.split(4, 1)
        return left * right


@lowers
def test_a_size_that_the_lowering_makes_static_is_its_own():
    verdict = check(Split(), X)
    assert verdict.failure == "DimsNarrowed", verdict
    assert executorch.FROZEN in verdict.notes
    assert verdict.diagnosis.owner == "translation"


class Named(nn.Module):
    def forward(self, x, mode):
        return x.mean(1) if mode == "mean" else x.sum(1)


@lowers
def test_a_text_is_no_argument_of_a_file():
    verdict = check(Named(), X, "mean")
    assert (verdict.status, "takes no str: mode" in verdict.reason) == ("skipped", True), verdict


@lowers
@pytest.mark.parametrize("backend", executorch.BACKENDS)
def test_an_input_that_forward_changes_is_not_changed_in_the_runtime(backend):
    options = {"executorch": {"backend": backend}}
    verdict = check(InPlace(), X, export_options=options)
    assert verdict.failure == "StateDiffers", verdict
    (known,) = verdict.diagnosis.known
    assert "changes no tensor of the caller" in known.text


@lowers
@pytest.mark.parametrize("x", [torch.zeros(0, 8), X])
def test_a_call_without_elements_does_not_abort(x):
    verdict = check(nn.GELU(), x, dims={"batch": (0, 4)} if len(x) else {})
    assert verdict.status == "passed", verdict


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return nn.functional.gelu(self.norm(x), approximate="tanh")


@lowers
def test_a_known_defect_is_one_of_the_kernels_that_differ():
    (known,) = check(Normed(), X).diagnosis.known
    assert "gelu" in known.text


@lowers
def test_a_step_without_xnnpack_says_whose_fault_it_is():
    verdict = check(nn.GELU(approximate="tanh"), X)
    steps = [(stage.name, stage.agrees) for stage in verdict.diagnosis.stages]
    assert steps[1:] == [
        ("ExportedProgram", True),
        ("ExecuTorch without XNNPACK", True),
        ("ExecuTorch with XNNPACK", False),
    ]


@lowers
def test_the_script_of_a_failure_loads_the_file(tmp_path):
    keep = tmp_path / "kept"
    verdict = check(nn.GELU(approximate="tanh"), X, keep=keep)
    assert verdict.failure == "OutputsDiffer", verdict
    script = keep / "reproduce.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, "The failure is there." in done.stdout) == (1, True), done


@lowers
def test_a_backend_that_is_none_is_refused_with_the_legal_ones():
    verdict = check(cnn(), IMAGE, export_options={"executorch": {"backend": "coreml"}})
    assert verdict.failure == "ExportRefused"
    assert "backend='coreml' is none of xnnpack, portable" in verdict.reason


# -- files that somebody else made -----------------------------------------------------------------


@lowers
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of the exporter, called by hand
def test_a_file_of_somebody_else_is_judged(tmp_path):
    from executorch.exir import to_edge_transform_and_lower

    module, scale = Net().eval(), torch.tensor(3.0)
    batch = torch.export.Dim("batch", min=1, max=5)
    shapes = {"x": {0: batch}, "scale": None}
    program = torch.export.export(module, (X,), {"scale": scale}, dynamic_shapes=shapes)
    path = tmp_path / "model.pte"
    path.write_bytes(to_edge_transform_and_lower(program).to_executorch().buffer)

    def judged(path, module, high=5):
        dims = {"shapes": {"x": "batch 8", "scale": ""}, "dims": {"batch": (1, high)}}
        options = parse_options((), dims)
        plan = Plan(target="executorch", device="cpu", root=tmp_path, options=options)
        return engine.check_artifact(path, module, Call((X,), {"scale": scale}), plan)

    assert judged(path, module).status == "passed"
    assert judged(path, Net(error=0.1).eval()).failure == "OutputsDiffer"
    assert "maximum capacity of 40 elements to 48" in judged(path, module, high=6).reason
    cut = tmp_path / "cut.pte"
    cut.write_bytes(path.read_bytes()[:500])
    verdict = judged(cut, module)
    assert (verdict.failure, "File size is too small" in verdict.reason) == ("LoadFailed", True)


@lowers
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n" * 3])
def test_a_file_of_another_kind_does_not_load(content, tmp_path):
    path = tmp_path / "model.pte"
    path.write_bytes(content)
    plan = Plan(target="executorch", device="cpu", root=tmp_path)
    verdict = engine.check_artifact(path, Counter().eval(), Call((X,)), plan)
    assert verdict.failure == "LoadFailed", verdict
    assert "cut short or of another format" in "\n".join(verdict.details)


# -- without the package ---------------------------------------------------------------------------


def test_without_the_package_it_is_unavailable_with_the_next_step(monkeypatch):
    has_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    assert "pip install 'pytest-torchexport[executorch]'" in TARGET.unavailable("cpu")
    monkeypatch.setattr(importlib.util, "find_spec", {"executorch": has_spec("torch")}.get)
    monkeypatch.setattr(compiled, "EXECUTORCH", "executorch_of_another_torch")
    assert "does not load with torch" in TARGET.unavailable("cpu")
    monkeypatch.setattr(compiled, "executorch_runtime", lambda: None)
    assert TARGET.unavailable("cuda") == "ExecuTorch is run on the CPU"
