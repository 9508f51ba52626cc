"""diagnosis/refusal.py: each row of the table of refusals is what its example is refused for."""

from __future__ import annotations

import pytest
import torch
from specs import spec_of
from upstream_examples import example

from pytest_torchexport import check_export, register_target, targets
from pytest_torchexport.diagnosis.refusal import explained
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.messages import condense
from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets.upstream.rows import rows
from pytest_torchexport.testing import FakeTarget

ROWS = [
    pytest.param(row, id=f"{row.targets[0]}-{row.cause[:40].replace(' ', '-')}")
    for row in rows("refusals")
    if not row.unchecked
]


def refused(module, call, target):
    """Return what the exporter raises."""
    spec = spec_of(module.forward, *call, shapes={})
    with quiet("cpu"), suppress_output():
        try:
            targets.get(target).export(module, Call(call), spec)
        except Exception as error:  # each exporter has classes of its own
            return error
    raise AssertionError("it was exported")


@pytest.mark.filterwarnings("ignore:torch.quantize")
@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_what_its_example_is_refused_for(row, tmp_path):
    (target, *_) = row.targets
    if target.startswith("onnx"):
        pytest.importorskip("onnxscript")
    module, call = example(row.example, tmp_path)
    error = refused(module, call, target)
    found = explained(error, target, module)
    assert found.causes, condense(error)
    (cause,) = found.causes
    own, _, _ = row.remedy.partition("{")
    assert cause.remedy.startswith(own), (cause, condense(error))
    assert (found.owner, cause.kind) == (row.owner, row.kind)
    if target != "onnx_legacy" and row.line:
        assert cause.where is not None


def test_other_words_are_those_of_the_exporter():
    class Odd(torch.nn.Module):
        def forward(self, x):
            if torch.jit.is_tracing():
                raise RuntimeError("nobody knows this")
            return x

    found = check_export(Odd(), (torch.ones(2),), target="trace", checks=["parity"])
    assert found.reason == "RuntimeError: nobody knows this"
    assert [cause.kind for cause in found.diagnosis.causes] == ["export-only branch"]


def refused_by(name, make):
    register_target(name, FakeTarget(make))
    x = (torch.ones(2, 3),)
    return check_export(torch.nn.Linear(3, 2), x, target=name, max_examples=1)


@pytest.mark.parametrize("always", [False, True], ids=["with gradients", "always"])
def test_the_grad_mode_is_the_cause_only_if_the_exporter_takes_the_other(always):
    def make(module):
        if always or torch.is_grad_enabled():
            raise ValueError("no view of these strides")
        return module

    found = refused_by(f"grad_{always}".lower(), make)
    assert found.failure == "ExportRefused"
    kinds = [cause.kind for cause in found.diagnosis.causes]
    assert kinds == ([] if always else ["mode-dependent operator"])
    if not always:
        assert "torch.no_grad()" in found.diagnosis.causes[0].remedy


def test_the_grad_mode_is_no_cause_of_a_refusal_that_does_not_come_again():
    refusals = iter([True])

    def make(module):
        if next(refusals, False):
            raise ValueError("locked")
        return module

    assert refused_by("grad_once", make).diagnosis.causes == ()


def test_a_call_without_gradients_has_no_such_cause():
    def make(module):
        raise ValueError("no view of these strides")

    with torch.no_grad():
        found = refused_by("grad_none", make)
    assert found.diagnosis.causes == ()
