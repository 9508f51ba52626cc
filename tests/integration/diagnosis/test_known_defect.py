"""diagnosis/known_defect.py: a defect is named if eager with it does what the artifact does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.diagnosis import known_defect
from pytest_torchexport.diagnosis.known_defects import DEFECTS
from pytest_torchexport.outcomes.operators import available, dispatched, name_of, writing_nothing

X = torch.tensor([1.0, 2.0])


class TwiceInTheTrace(nn.Module):
    """Stands for a defect of ``relu``."""

    def forward(self, x):
        y = torch.relu(x)
        return y * 2 if torch.jit.is_tracing() else y


class RaisesInTheTrace(nn.Module):
    """Takes two numbers alone as a trace."""

    def forward(self, x):
        y = torch.relu(x)
        return y.view(2) if torch.jit.is_tracing() else y


class WritesTwiceInTheTrace(nn.Module):
    """Stands for a defect of ``relu_``."""

    def forward(self, x):
        y = (x + 1).relu_()
        return y * 2 if torch.jit.is_tracing() else y


class WritesToOutInTheTrace(nn.Module):
    """Stands for a defect of ``relu``, whose result goes into a tensor that has another size."""

    def forward(self, x):
        y = torch.empty(0)
        torch.clamp_min(x, 0, out=y)
        return y * 2 if torch.jit.is_tracing() else y


def row(name, factor, *operators):
    return replace(
        DEFECTS[0],
        name=name,
        operators=operators,
        imitate=lambda func, x: func(x) * factor,
        targets=("trace",),
        owner="model",
        places=("relu", "mul"),
        line="",
        text=name,
    )


DOUBLED = row("doubled", 2, "relu")
OTHERS = [row("tripled", 3, "relu"), row("right", 1, "relu"), row("elsewhere", 2, "sigmoid")]


@pytest.fixture
def known(monkeypatch):
    """Return the texts of the defects of a table that the failing trace of a module has."""

    def of(rows, module=TwiceInTheTrace, failure="OutputsDiffer"):
        monkeypatch.setattr(known_defect, "DEFECTS", rows)
        found = check_export(module(), (X,), target="trace", checks=["parity"], max_examples=1)
        assert found.failure == failure
        assert found.diagnosis.not_examined == ()
        return [each.text for each in found.diagnosis.known]

    return of


@pytest.mark.parametrize("module", [TwiceInTheTrace, WritesTwiceInTheTrace])
def test_the_defect_that_explains_the_failure_is_named(known, module):
    assert known([*OTHERS, DOUBLED], module) == ["doubled"]


def test_the_defect_of_an_operator_that_writes_to_its_out_is_named(known):
    def doubled(func, x, least):
        return func(x, least) * 2

    row = replace(DOUBLED, operators=("clamp_min",), places=("mul", "clamp"), imitate=doubled)
    assert known([row, replace(row, imitate=lambda func, *x: func(*x))], WritesToOutInTheTrace) == [
        "doubled"
    ]


@pytest.mark.skipif(not available(), reason="this torch has no dispatch mode")
@pytest.mark.parametrize(
    "write", [lambda x: x.clone().add_(1e-9), lambda x: torch.add(x, 1e-9, out=torch.empty(2))]
)
def test_an_imitation_is_given_the_operator_that_writes_nothing(write):
    seen = []

    def handle(func, args, kwargs):
        if name_of(func) == "add":
            seen.append(writing_nothing(func))
        return func(*args, **kwargs)

    with dispatched(handle):
        write(X)
    assert seen == [torch.ops.aten.add.Tensor]


def test_another_evidence_at_the_same_operator_is_unknown(known):
    assert known(OTHERS) == []


def test_of_two_that_explain_it_none_is_named(known):
    assert known([DOUBLED, row("doubled too", 2, "relu")]) == []


@pytest.mark.parametrize(
    ("text", "named"), [("is invalid for input of size", ["doubled"]), ("", [])]
)
def test_an_exception_without_a_text_is_no_evidence(known, text, named):
    def raising(func, x):
        raise RuntimeError(text)

    rows = [replace(DOUBLED, places=("relu", "view"), imitate=raising)]
    assert known(rows, RaisesInTheTrace, "ArtifactRaised") == named
