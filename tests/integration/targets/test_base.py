"""targets/base.py: what a trait of a target changes in how it exports, and how its files are called and judged."""

from __future__ import annotations

import pytest
import torch
from specs import spec_of
from torch import nn

from pytest_torchexport import check_export, register_target, targets
from pytest_torchexport.config import names
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets import DirectArtifact, TargetTraits
from pytest_torchexport.torch_private.circumstances import export_queries

X = torch.ones(3, 4)
QUESTIONS = {name: getattr(*place) for name, place in export_queries().items()}


def exported(name, module):
    example = Call((X,))
    with quiet("cpu"), suppress_output():
        return targets.get(name).export(module, example, spec_of(module.forward, X))


@pytest.mark.parametrize("name", ["trace", "export", "onnx", "onnx_legacy"])
def test_forward_is_answered_as_the_traits_say(name):
    answers = []

    class Asks(nn.Module):
        def forward(self, x):
            answers.append({name: bool(ask()) for name, ask in QUESTIONS.items()})
            return x * 2

    Asks()(X)
    exported(name, Asks())
    eager, *_, last = answers
    assert {name: answer for name, answer in last.items() if answer != eager[name]} == {
        name: True for name in targets.get(name).traits.answers if name in QUESTIONS
    }


class AsksItself(nn.Module):
    def forward(self, x):
        scripting, state = torch.jit.is_scripting(), torch._C._get_tracing_state()
        return x * 2 if scripting and state is not None and not state else x


def test_a_script_is_answered_when_it_runs():
    answers = targets.get("script").traits.answers
    assert answers == {"torch.jit.is_scripting": True, "torch._C._get_tracing_state": False}
    assert torch.equal(exported("script", AsksItself())(X), X * 2)
    assert torch.equal(AsksItself()(X), X)


class Fixed:
    """Reads the memory of each call as it lies in the example's, as compiled code may.

    ``follows``: if not, it reads any memory as contiguous, whatever the example's layout.
    """

    def __init__(self, *, follows=True, fixes_layouts=True):
        self.follows = follows
        self.traits = TargetTraits(fixes_layouts=fixes_layouts)

    def unavailable(self, device):
        return None

    def export(self, module, example, spec):
        (given,) = example.args
        order = sorted(range(given.dim()), key=given.stride().__getitem__, reverse=True)
        order = order if self.follows else range(given.dim())
        back = [order.index(axis) for axis in range(given.dim())]

        def run(x):
            sizes = [x.shape[axis] for axis in order]
            flat = torch.as_strided(x, (x.numel(),), (1,))
            return module(flat.view(sizes).permute(back))

        return DirectArtifact(program=module, module=None, run=run)

    load = None


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()


IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LAST = IMAGE.contiguous(memory_format=torch.channels_last)


def checked(monkeypatch, x, **traits):
    monkeypatch.setattr(names, "_registered", {})
    register_target("fixed", Fixed(**traits))
    module = net()
    module(x)
    return check_export(module, (x,), target="fixed", shapes={"input": "batch 3 6 6"})


@pytest.mark.parametrize(
    ("x", "own", "others"),
    [
        (IMAGE, "contiguous", ["strided", "channels_last"]),
        (LAST, "channels_last", ["contiguous", "strided"]),
    ],
)
def test_other_layouts_than_the_examples_are_a_note_that_names_them(monkeypatch, x, own, others):
    verdict = checked(monkeypatch, x)
    assert verdict.status == "passed", verdict
    notes = [text for text in verdict.notes if "is read as" in text]
    assert [text.partition(":")[0] for text in notes] == [
        f"input is read as {own}, as in the example"
    ] * len(others)
    assert [
        f": a {other} one gives other results" in text
        for other, text in zip(others, notes, strict=True)
    ] == [True] * len(others)


def test_an_example_whose_layout_no_call_is_served_by_is_the_cause(monkeypatch):
    verdict = checked(monkeypatch, LAST, follows=False)
    assert verdict.failure == "OutputsDiffer", verdict
    (cause,) = verdict.diagnosis.causes
    assert (cause.kind, verdict.diagnosis.owner) == ("memory layout", "capture")
    assert "lie in memory, input (channels_last): " in cause.text
    assert verdict.diagnosis.sizes == ()


def test_without_the_trait_any_layout_is_to_be_right(monkeypatch):
    verdict = checked(monkeypatch, IMAGE, fixes_layouts=False)
    assert verdict.failure == "OutputsDiffer", verdict


@pytest.mark.parametrize(("rtol", "status"), [(0.0, "failed"), (3e-6, "passed")])
def test_the_error_of_a_runtimes_own_functions_is_no_failure(monkeypatch, rtol, status):
    class Rough(Fixed):
        def export(self, module, example, spec):
            return DirectArtifact(program=module, module=None, run=lambda x: x.exp() * (1 + 2.5e-6))

    monkeypatch.setattr(names, "_registered", {})
    rough = Rough()
    rough.traits = TargetTraits(rtol=rtol)
    register_target("rough", rough)
    x = torch.linspace(3, 9, 12).view(3, 4)
    verdict = check_export(torch.exp, (x,), target="rough", checks=["parity"], max_examples=5)
    assert verdict.status == status, verdict


def test_the_sizes_that_an_axis_may_have():
    options = {"shapes": {"x": "batch 2*half time"}, "dims": {"batch": (1, 8), "half": (2, 5)}}
    spec = spec_of(lambda x: x, torch.ones(3, 6, 7), **options)
    assert spec.bounds(spec.tensors[0]) == [(1, 8), (4, 10), (0, None)]
