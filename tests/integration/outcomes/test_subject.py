"""outcomes/subject.py: subjects that only hold a module are copied, and a check changes nothing of the user's."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.outcomes.subject import Subject, copied_module


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x, scale=1.0):
        return self.norm(x) * scale


X = torch.randn(4, 3)


def tracked(net):
    return int(net.norm.num_batches_tracked)


def test_a_partial_is_copied_with_its_module_which_a_check_leaves_alone():
    net = Normed().train()
    partial = functools.partial(net, scale=2.0)
    copied = Subject.of(partial).copy()
    assert copied.module is not net
    assert copied.function.keywords == {"scale": 2.0}
    assert copied.function.func is copied.module
    verdict = check_export(partial, (X,), target="export", checks=("parity",), max_examples=5)
    assert verdict.status == "passed", verdict.reason
    assert tracked(net) == 0
    assert net.training


def test_checking_an_object_that_can_be_called_leaves_it_alone():
    class Scaled:
        def __init__(self):
            self.calls = 0

        def __call__(self, x):
            self.calls += 1
            return x * self.calls

    scaled = Scaled()
    check_export(scaled, (torch.randn(4, 3),), target="export")
    assert scaled.calls == 0


def compiled_in_place():
    net = Normed()
    net.compile()
    return net


@pytest.mark.parametrize(
    ("made", "wrappers"),
    [
        (lambda: torch.compile(Normed()), ("torch.compile",)),
        (compiled_in_place, ("torch.compile",)),
        (lambda: nn.DataParallel(torch.compile(Normed())), ("DataParallel", "torch.compile")),
    ],
)
def test_wrappers_are_left_out_and_a_note_says_so(made, wrappers):
    thing = made()
    subject = Subject.of(thing)
    assert subject.wrappers == wrappers
    verdict = check_export(thing, (X,), target="trace", checks=("parity",), max_examples=2)
    assert verdict.status == "passed", verdict.reason
    said = [note for note in verdict.notes if note.startswith("checked without the ")]
    assert said == [f"checked without the {' and '.join(wrappers)} around it"][: len(wrappers)]


# -- copies ----------------------------------------------------------------------------------------

X = torch.ones(2, 3)


class WithLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, n: int) -> torch.Tensor:
        for _ in range(n):
            x = self.linear(x)
        return x


@pytest.mark.parametrize("wrap", [lambda net: net, nn.Sequential], ids=["alone", "in a module"])
def test_a_script_module_is_copied_with_its_parts(wrap):
    scripted = torch.jit.script(WithLoop())
    copied = copied_module(wrap(scripted))
    inner = copied[0] if isinstance(copied, nn.Sequential) else copied
    inner.linear.weight.data.zero_()
    assert scripted.linear.weight.abs().sum() > 0
    torch.testing.assert_close(inner(X, 1), scripted.linear.bias.expand(2, 3))
