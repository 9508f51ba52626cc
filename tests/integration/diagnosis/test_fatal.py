"""diagnosis/fatal.py: the operator in which a call ends its process, or does not return."""

from __future__ import annotations

import pytest
import torch
from slow import slow
from torch import Tensor, nn

from pytest_torchexport import check_export
from pytest_torchexport.diagnosis import fatal
from pytest_torchexport.outcomes.fork import FORKS
from pytest_torchexport.results.diagnosis import NOTHING

pytestmark = pytest.mark.skipif(not FORKS, reason="the call is made in a fork")

X = torch.ones(4, 3)
LENGTHS = {
    "shapes": {"x": "6", "lengths": "3"},
    "values": {"lengths": (0, 1 << 38)},
    "max_examples": 5,
}


def beyond(x: Tensor, lengths: Tensor) -> Tensor:
    """Read beyond memory if the lengths are not those of x: torch is told not to check them."""
    if int(lengths.sum()) != x.size(0):
        return torch.zeros(lengths.size(0))
    return torch.segment_reduce(x, "sum", lengths=lengths, unsafe=True)


compiled = torch.jit.script(beyond)


class Sums(nn.Module):
    """A trace has lost the check of the lengths."""

    def forward(self, x, lengths):
        return beyond(x, lengths)


class SumsScripted(nn.Module):
    """The same, with the check compiled."""

    def forward(self, x, lengths):
        return compiled(x, lengths)


class Endless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while torch.jit.is_scripting() and bool(x.numel() > 0):
            x = x * 1.0
        return x * 2


def test_an_operator_to_which_only_the_trace_gets_is_named_and_the_remedy_helps():
    args = torch.ones(6), torch.tensor([1, 2, 3])
    found = check_export(Sums(), args, target="trace", **LENGTHS)
    assert found.failure == "ArtifactCrashed"
    assert found.diagnosis.not_examined == ()
    place = found.diagnosis.place
    assert place.operator == "aten.segment_reduce"
    assert place.where.text.startswith("return torch.segment_reduce")
    (cause,) = found.diagnosis.causes
    assert cause.kind == "fatal operator"
    assert cause.text.startswith("aten.segment_reduce ends the process by SIGSEGV; eager does not ")
    assert cause.remedy.endswith("by @torch.jit.script")
    followed = check_export(SumsScripted(), args, target="trace", **LENGTHS)
    assert followed.status == "passed", followed


def test_a_call_that_returns_has_no_such_operator(scene_of):
    scene = scene_of(lambda x: x + 1 if torch.jit.is_tracing() else x, X)
    known = fatal.examine(scene, NOTHING)
    assert known.place is None
    assert known.not_examined == ("operator: run step by step, the call returns",)


@slow
def test_a_loop_without_end_is_named_with_an_operator_of_it():
    found = check_export(Endless(), (X,), target="script", max_examples=5, time_limit=15)
    assert found.failure == "ArtifactHung"
    assert found.diagnosis.place.operator == "aten.mul"
    assert found.diagnosis.place.where.text == "x = x * 1.0"
    assert "in a loop without end" in found.diagnosis.causes[0].text
