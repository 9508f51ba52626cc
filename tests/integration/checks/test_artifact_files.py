"""checks/artifact_files.py: files are not too large, and what passed is shipped."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.checks import artifact_files
from pytest_torchexport.config.options import parse_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.engine import check_artifact
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.results import manifest

X = torch.linspace(-1.0, 1.0, 1024).reshape(2, 512)
MIB = 2**20


class Chained(nn.Module):
    """Four layers with one weight of 1 MiB."""

    def __init__(self, tie):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(512, 512, bias=False) for _ in range(4))
        first = self.layers[0].weight
        for layer in self.layers[1:]:
            if tie == "one parameter":
                layer.weight = first
            else:
                layer.weight.data = first.data

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Doubled(nn.Module):
    def forward(self, x):
        return x * 2


class Constant(nn.Module):
    """A tensor of 2 MiB that is no parameter or buffer, beside two buffers without elements."""

    def __init__(self):
        super().__init__()
        self.table = torch.ones(MIB // 2)
        self.register_buffer("one", torch.empty(0))
        self.register_buffer("other", torch.empty(0))

    def forward(self, x):
        return self.table * x.sum()


def checked(module, target="onnx", checks=("round_trip",), **settings):
    settings = {"max_examples": 1, "checks": checks, "shapes": {"x": "..."}, **settings}
    return check_export(module, (X,), target=target, **settings)


def test_a_file_that_stores_one_weight_by_each_name_is_too_large():
    verdict = checked(Chained("shared memory"), max_size_ratio=1.5)
    assert verdict.failure == "ArtifactTooLarge"
    assert verdict.size.weights == MIB
    assert verdict.size.ratio > 3.9
    assert "4.01 MiB, 4.01 times the weights (1 MiB); the limit is 2.5 MiB" in verdict.reason
    assert verdict.details[1].endswith("of the files: layers.0.weight: 1 MiB, stored 4 times")
    assert "b.weight = a.weight" in verdict.details[2]


@pytest.mark.parametrize(
    ("target", "name"), [("trace", "constants/0"), ("export", "data/constants/"), ("onnx", "table")]
)
def test_the_report_names_a_large_constant(target, name):
    verdict = checked(Constant(), target, max_size_ratio=1.5)
    assert verdict.failure == "ArtifactTooLarge"
    line = verdict.details[1]
    assert line.startswith(f"the largest parts of the files: {name}")
    assert line.endswith(" (no parameter or buffer has these bytes): 2 MiB")


def test_a_file_that_stores_it_once_passes():
    verdict = checked(Chained("one parameter"), "trace", max_size_ratio=1.5)
    assert verdict.status == "passed"
    assert MIB < verdict.size.files < 1.1 * MIB


def test_the_size_is_measured_without_a_limit_and_of_a_file_from_elsewhere(tmp_path):
    assert checked(Doubled(), "trace").size.ratio is None
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.trace(Doubled(), X), path)
    plan = Plan(target="trace", device="cpu", options=parse_options((), {"max_examples": 1}))
    assert check_artifact(path, Doubled(), Call((X,)), plan).size.files == path.stat().st_size


@pytest.mark.parametrize(
    ("subject", "checks", "said"),
    [
        (Doubled(), ("parity",), artifact_files.NO_FILE),
        (lambda x: x * 2, ("round_trip",), artifact_files.NO_MODULE),
    ],
)
def test_a_limit_that_holds_for_nothing_is_said(subject, checks, said):
    verdict = checked(subject, "trace", checks, max_size_ratio=1.5)
    assert verdict.status == "passed"
    assert verdict.cautions == (said,)
    strict = checked(subject, "trace", checks, max_size_ratio=1.5, strict=True)
    assert (strict.failure, strict.reason) == ("Ineffective", said)


class Frozen(nn.Module):
    """A trace keeps the branch that the example took."""

    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1


@pytest.fixture
def check(tmp_path):
    def run(module, target="trace", **options):
        return check_export(
            module,
            (torch.ones(2, 3),),
            target=target,
            max_examples=3,
            ship=str(tmp_path / "to/ship"),
            **options,
        )

    return run


def test_the_files_that_passed_are_shipped_until_a_check_fails(check, tmp_path):
    place = tmp_path / "to/ship"
    assert check(nn.Hardtanh()).failure is None
    assert check(nn.ReLU(), shapes={"input": "batch 3"}, dims={"batch": (1, 5)}).failure is None
    judged = manifest.read((place / manifest.NAME).read_text())
    assert (judged.subject, judged.status, judged.file) == ("ReLU", "passed", "model.pt")
    assert judged.sizes == {"batch": manifest.Sizes(low=1, high=5)}
    assert {"torch", "pytest-torchexport", "os", "date", "command", "seed"} <= {*judged.environment}
    assert judged.files == manifest.files_in(place)
    assert judged.opset is None
    loaded = torch.jit.load(place / judged.file)
    assert torch.equal(loaded(-torch.ones(1, 3)), torch.zeros(1, 3))
    assert check(Frozen()).failure == "BranchFrozen"
    assert list(place.parent.iterdir()) == []


@pytest.mark.parametrize("opset", [18, 20])
def test_the_opset_of_an_onnx_file_is_shipped(check, tmp_path, opset):
    pytest.importorskip("onnxscript")
    asked = {"onnx": {"opset_version": opset}}
    assert check(nn.ReLU(), "onnx", export_options=asked).failure is None
    assert manifest.read((tmp_path / "to/ship" / manifest.NAME).read_text()).opset == opset


def test_a_folder_of_somebody_else_is_left_alone(check, tmp_path):
    (tmp_path / "to/ship").mkdir(parents=True)
    (tmp_path / "to/ship/thesis.tex").touch()
    verdict = check(nn.Identity())
    assert (verdict.status, verdict.failure) == ("failed", "SpecError")
    assert "has files that no check has shipped" in verdict.reason
    assert (tmp_path / "to/ship/thesis.tex").exists()


def test_without_a_file_that_was_judged_nothing_is_shipped(check, tmp_path):
    verdict = check(Frozen(), checks=("dims",))
    assert verdict.status == "passed"
    assert any("not shipped: no file was judged" in line for line in verdict.cautions)
    assert not (tmp_path / "to/ship").exists()
