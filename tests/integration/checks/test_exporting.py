"""checks/exporting.py: what cannot be judged is said before anything runs; what an export leaves behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.targets.formats import onnx_model


@pytest.mark.parametrize(
    ("subject", "argument", "said"),
    [
        (nn.Identity(), torch.empty(2, 3, device="meta"), "an argument is on the meta device"),
        (nn.Linear(3, 2, device="meta"), torch.ones(2, 3), "the module has parameters on the meta"),
        (
            nn.Identity(),
            torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
            "an argument is a nested tensor",
        ),
    ],
    ids=["meta argument", "meta module", "nested argument"],
)
def test_tensors_without_numbers_or_sizes_are_a_skip(subject, argument, said):
    verdict = check_export(subject, (argument,), target="trace")
    assert verdict.status == "skipped", verdict
    assert verdict.reason.startswith(said)


def test_sparse_tensors_alone_have_no_batch():
    verdict = check_export(
        nn.Identity(), (torch.eye(3).to_sparse(),), target="trace", checks="parity"
    )
    assert verdict.status == "passed", verdict
    assert verdict.reached == {}


class Stores(nn.Module):
    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        doubled = batch["x"] * 2
        batch["y"] = doubled + 1  # here
        return doubled


@pytest.mark.parametrize("target", ["trace", "export"])
def test_a_container_that_forward_changes_is_told_with_the_line(target):
    verdict = check_export(Stores(), ({"x": torch.ones(2, 3)},), target=target, checks="parity")
    assert verdict.status == "passed", verdict
    (told,) = verdict.ineffective
    assert told.startswith("forward changes a container that it was given (inputs[0][0]['y'])")
    assert 'batch["y"] = doubled + 1  # here' in told


def test_a_container_that_forward_changes_is_a_failure_under_strict():
    verdict = check_export(Stores(), ({"x": torch.ones(2, 3)},), target="trace", strict=True)
    assert verdict.failure == "Ineffective"
    assert "(inputs[0][0]['y'])" in verdict.reason


LIBRARIES = {}


class RegistersItsOperator(nn.Module):
    """Calls an operator of its own in the export alone, and registers it there."""

    def __init__(self, namespace):
        super().__init__()
        self.namespace = namespace

    def forward(self, x):
        if not torch.jit.is_tracing() and not torch.compiler.is_exporting():
            return x * 2
        if self.namespace not in LIBRARIES:
            library = torch.library.Library(self.namespace, "DEF")
            library.define("double(Tensor x) -> Tensor")
            library.impl("double", lambda x: x * 2, "CompositeExplicitAutograd")
            library.impl("double", torch.empty_like, "Meta")
            LIBRARIES[self.namespace] = library
        return getattr(torch.ops, self.namespace).double(x)


def test_an_operator_that_the_export_registered_lives_as_long_as_the_artifact():
    module, x = RegistersItsOperator("registered_in_export"), torch.ones(2, 3)
    verdict = check_export(module, (x,), target="export", max_examples=5, checks=["parity"])
    assert verdict.status == "passed", verdict
    assert LIBRARIES == {}


class Twice(nn.Module):
    def forward(self, x, n=2):
        y = x.mean(0) * n
        return y, y


def asked(target, **options):
    pytest.importorskip("onnxscript")
    return check_export(
        Twice(),
        (torch.ones(2, 3), 3),
        target=target,
        checks="parity",
        max_examples=1,
        export_options={target: options},
    )


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("onnx", {"opset_version": 18}),
        ("onnx", {"opset_version": 20, "verbose": True}),
        ("onnx_legacy", {"opset_version": 13, "output_names": ["a", "b"]}),
        ("onnx", {"opset_version": None, "input_names": ("a",), "output_names": ["b"]}),
        ("onnx", {"external_data": False}),
        ("onnx", {"external_data": True}),
    ],
)
def test_a_file_that_is_what_options_ask_for_passes(target, options):
    verdict = asked(target, **options)
    assert verdict.status == "passed", verdict


@pytest.mark.parametrize(
    ("options", "said", "remedy"),
    [
        ({"opset_version": 13}, "opset_version=13 was asked for; the exporter wrote ", "ask for"),
        ({"opset_version": 99}, "opset_version=99 was asked for; the exporter wrote ", "ask for"),
        (
            {"input_names": ["a", "n"]},
            "input_names=['a', 'n'] was asked for; the exporter wrote ['a']",
            "name the inputs that are there, in their order: ['a']",
        ),
    ],
)
def test_a_file_that_is_not_what_options_ask_for_is_refused(options, said, remedy):
    verdict = asked("onnx", **options)
    assert (verdict.failure, verdict.diagnosis.owner) == ("ExportRefused", "translation")
    assert verdict.reason.startswith(f"NotAsAsked: {said}")
    (cause,) = verdict.diagnosis.causes
    assert cause.remedy.startswith(remedy)


def test_weights_beside_a_file_that_is_to_hold_them_are_refused(monkeypatch):
    monkeypatch.setattr(onnx_model, "locations", lambda _: ["model.onnx.data"])
    verdict = asked("onnx", external_data=False)
    assert verdict.reason.endswith("external_data=False was asked for; the exporter wrote True")
    assert verdict.diagnosis.causes[0].remedy == "leave the option out, and ship both files"
