"""checks/exporting.py: causes of refusals, and what an export leaves behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export, register_target
from pytest_torchexport.testing import FakeTarget

X = (torch.ones(2, 3),)


def refused(name, make):
    register_target(name, FakeTarget(make))
    return check_export(nn.Linear(3, 2), X, target=name, max_examples=1)


@pytest.mark.parametrize("always", [False, True], ids=["with gradients", "always"])
def test_the_grad_mode_is_the_cause_only_if_the_exporter_takes_the_other(always):
    def make(module):
        if always or torch.is_grad_enabled():
            raise ValueError("no view of these strides")
        return module

    found = refused(f"grad_{always}".lower(), make)
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

    assert refused("grad_once", make).diagnosis.causes == ()


def test_a_call_without_gradients_has_no_such_cause():
    def make(module):
        raise ValueError("no view of these strides")

    with torch.no_grad():
        found = refused("grad_none", make)
    assert found.diagnosis.causes == ()


SEEN = {"exported": False}


class RemembersItsExport(nn.Module):
    """Goes on as if it were deployed once it was exported; ``scale`` is what it multiplies with then."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            SEEN["exported"] = True
        return x * (self.scale if SEEN["exported"] else 2.0)


@pytest.mark.parametrize(("scale", "failure"), [(2.5, "OutputsDiffer"), (2.0, None)])
@pytest.mark.parametrize("target", ["trace", "export"])
def test_eager_is_what_it_is_where_nothing_was_exported(target, scale, failure):
    verdict = check_export(RemembersItsExport(scale), X, target=target, max_examples=5)
    assert verdict.failure == failure, verdict
    assert SEEN == {"exported": False}
