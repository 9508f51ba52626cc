"""eager/accepted.py: wrong declarations, and calls that are kept because several checks make them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager import accepted
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.inputs.spec import Call, build_spec
from pytest_torchexport.outcomes.subject import Subject


def X(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def verdict_of(module, *args, target="trace", **options):
    return check_export(module, args, target=target, max_examples=10, **options)


def test_the_sizes_that_eager_takes_are_the_remedy_for_a_wrong_declaration():
    class Patches(nn.Module):
        def forward(self, x):
            return x.unflatten(1, (-1, 4)).mean(-1)

    found = verdict_of(
        Patches(), X(2, 16), target="export", shapes={"x": "batch time"}, dims={"time": (6, 40)}
    )
    assert found.failure == "SpecError"
    assert 'remedy: eager takes dims={"time": range(8, 41, 4)}' in found.details


def test_a_declaration_is_not_narrowed_if_the_values_are_wrong():
    class Positive(nn.Module):
        def forward(self, x):
            if x.min() < 0:
                raise ValueError("negative")
            return x.sqrt()

    options = {"shapes": {"x": "batch time"}, "dims": {"time": (1, 4)}, "values": {"x": (-1, 1)}}
    found = verdict_of(Positive(), X(2, 3).abs(), **options)
    assert found.failure == "SpecError"
    assert found.details[-1].startswith("narrow the range")


EXAMPLE = Call((torch.ones(2, 3),), {})


@pytest.fixture
def runs():
    return []


@pytest.fixture
def calls(runs):
    subject = Subject.of(nn.Linear(3, 2).eval())
    plan = Plan(target="trace", device="cpu")
    reference = Reference(subject, plan, lambda _: None, EXAMPLE)
    spec = build_spec(subject.signature(), [EXAMPLE], plan.options, {})
    made = accepted.AcceptedCalls(spec, reference, lambda _: None)
    on_cpu = reference.on_cpu

    def counted(call):
        runs.append(call)
        return on_cpu(call)

    reference.on_cpu = counted
    return made


def test_a_rehearsed_call_is_not_run_again(calls, runs):
    recipe = example_recipe(calls.spec, {"batch": 3})
    calls.rehearse(recipe)
    assert calls.call(recipe) is calls.call(dataclasses.replace(recipe))
    assert len(runs) == 1
    calls.call(example_recipe(calls.spec, {"batch": 4}))
    assert len(runs) == 2


def test_a_large_call_is_not_kept(calls, runs, monkeypatch):
    recipe = example_recipe(calls.spec)
    calls.rehearse(recipe)
    (kept,) = calls._rehearsed
    # 2 x 3 numbers given, as many afterwards, and 2 x 2 returned.
    assert kept.nbytes == 4 * (6 + 6 + 4)
    calls.forget()
    monkeypatch.setattr(accepted, "SMALL", kept.nbytes - 1)
    calls.rehearse(recipe)
    calls.call(recipe)
    assert len(runs) == 3
