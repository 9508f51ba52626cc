"""checks/dims.py: a suspicion about sizes is a failure if a call confirms it."""

from __future__ import annotations

import pytest
import torch
from specs import spec_of

from pytest_torchexport.checks import dims
from pytest_torchexport.results.failures import DimsNarrowed, OutputsDiffer
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats.sizes import Suspicion

SPEC = spec_of(lambda x: x, torch.ones(2, 3), shapes={"x": "batch 3"}, dims={"batch": (1, 8)})
SUSPICION = {
    "dim": "batch",
    "path": "x",
    "axis": 0,
    "text": "batch <= 4",
    "why": "a guard says so",
    "where": SourceLine("net.py", 3, "if x.shape[0] > 4:"),
    "sizes": ({"batch": 5}, {"batch": 8}),
}
LOWEST = {
    "text": "batch >= 2",
    "sizes": ({"batch": 1},),
    "is_torchs_minimum": True,
    "where": None,
}
NEXT = {**LOWEST, "taken": ({"batch": 2}, {"batch": 3})}


def check(witness, **fields):
    dims.check([Suspicion(**{**SUSPICION, **fields})], witness, SPEC)


def guarded(*refused):
    def witness(sizes):
        return DimsNarrowed("Guard failed: x.size()[0]") if sizes["batch"] in refused else None

    return witness


def test_a_suspicion_that_a_call_confirms_is_a_failure_with_the_line():
    asked = []

    def witness(sizes):
        asked.append(dict(sizes))
        return OutputsDiffer() if sizes["batch"] == 8 else None

    words = r"batch \(axis 0 of x\): declared 1..8, the program says batch <= 4: a guard says so"
    with pytest.raises(DimsNarrowed, match=words) as info:
        check(witness)
    assert asked == [{"batch": 5}, {"batch": 8}]
    assert str(info.value.where).startswith("net.py:3")
    assert info.value.details[0] == "at batch = 8: outputs differ from eager"


@pytest.mark.parametrize(
    ("fields", "refused", "words", "at"),
    [
        # torch puts no guard on its minimum: one that refuses says something else.
        (LOWEST, (1,), "a guard of the program refuses batch = 1", 1),
        (NEXT, (1, 8), "a guard of the program refuses batch = 1", 1),
        (NEXT, (1, 2, 3), "a guard of the program refuses batch = 2", 2),
    ],
)
def test_torchs_own_lower_bound_is_not_blamed_for_another_guard(fields, refused, words, at):
    with pytest.raises(DimsNarrowed, match=words) as info:
        check(guarded(*refused), **fields)
    assert info.value.details[0].startswith(f"at batch = {at}: ")


def test_torchs_own_lower_bound_is_the_cause_if_the_next_size_is_right():
    with pytest.raises(DimsNarrowed, match="the program says batch >= 2"):
        check(lambda sizes: OutputsDiffer() if sizes["batch"] == 1 else None, **NEXT)


@pytest.mark.parametrize(
    ("witness", "fields"),
    [
        (lambda _: None, {}),
        (lambda _: None, LOWEST),
        # Wrong at sizes that torch takes too: parity judges it.
        (lambda sizes: OutputsDiffer() if sizes["batch"] % 2 else None, NEXT),
    ],
)
def test_a_suspicion_that_no_call_confirms_is_none(witness, fields):
    check(witness, **fields)


def test_an_expression_of_pages_is_cut():
    with pytest.raises(DimsNarrowed) as caught:
        check(lambda _: OutputsDiffer("x"), text="Mod(h, 4) + " * 200)
    assert len(str(caught.value)) < 400
