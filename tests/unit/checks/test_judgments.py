"""What an item is judged by besides its values: sizes, state, chance, legal calls. Each seen failing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.checks import dims, state
from pytest_torchexport.judge.failure_of import failure_class, failure_of
from pytest_torchexport.judge.state_differences import carried_differences
from pytest_torchexport.outcomes.compare import Tolerance
from pytest_torchexport.outcomes.messages import is_guard
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    ArtifactRaised,
    DimsNarrowed,
    OutputsDiffer,
    StateDiffers,
)
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Difference
from pytest_torchexport.targets.formats.sizes import LOWEST, Suspicion


def suspicion(**fields):
    given = {
        "dim": "batch",
        "path": "x",
        "axis": 0,
        "declared": "declared 1..8",
        "actual": "1..4",
        "why": "a guard says so",
        "where": SourceLine("net.py", 3, "if x.shape[0] > 4:"),
        "sizes": ({"batch": 5}, {"batch": 8}),
    }
    return Suspicion(**given | fields)


def passes(sizes):
    assert sizes


def X(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def verdict_of(module, *args, target="trace", **options):
    return check_export(module, args, target=target, max_examples=10, **options)


# -- sizes -------------------------------------------------------------------------------------------


def test_a_suspicion_that_a_call_confirms_is_a_failure_with_the_line():
    asked = []

    def witness(sizes):
        asked.append(dict(sizes))
        return OutputsDiffer() if sizes["batch"] == 8 else None

    with pytest.raises(
        DimsNarrowed, match=r"batch \(axis 0 of x\): declared 1..8, the program says 1..4"
    ) as info:
        dims.check([suspicion()], witness)
    assert asked == [{"batch": 5}, {"batch": 8}]
    assert str(info.value.where).startswith("net.py:3")
    assert info.value.details[0] == "at batch = 8: outputs differ from eager"


def test_a_suspicion_that_no_call_confirms_is_a_note():
    (note,) = dims.check([suspicion()], passes)
    assert "and yet it was right at batch = 5; batch = 8" in note


def test_torchs_own_lower_bound_is_no_news():
    assert dims.check([suspicion(why=LOWEST)], passes) == []


@pytest.mark.parametrize(
    ("text", "guard"),
    [
        ("AssertionError: Guard failed: x.size()[0] == 4", True),
        ("AssertionError: Guard failed: -4 + x.size()[1] != 1", True),
        ("RuntimeError: Expected input at *args[0].shape[0] to be >= 2, but got 1", True),
        ("InvalidArgument: Got invalid dimensions for input: x for the following indices", True),
        ("AssertionError: Guard failed: k == 2", False),
        ("RuntimeError: shape '[2, 3]' is invalid for input of size 12", False),
    ],
)
def test_guards_on_sizes_are_told_from_other_exceptions(text, guard):
    assert is_guard(text) == guard
    raised = Difference(kind="raised", path="output", expected="a value", actual=text)
    assert failure_class([raised]) is ArtifactRaised
    assert type(failure_of([raised])) is (DimsNarrowed if guard else ArtifactRaised)


def test_only_a_raise_can_be_a_guard():
    text = "Guard failed: x.size()[0] == 4"
    differs = Difference(kind="values", path="output", expected="1", actual=text)
    assert type(failure_of([differs])) is OutputsDiffer


# -- state -------------------------------------------------------------------------------------------


def test_tensors_of_one_name_are_compared_and_others_are_listed():
    before = {"buffer a": torch.zeros(2), "buffer b": torch.zeros(2)}
    after = {"buffer a": torch.ones(2), "buffer b": torch.ones(2)}
    exact = Tolerance(0.0, 0.0)
    assert carried_differences(after, {"buffer a": torch.ones(2)}, exact) == []
    (difference,) = carried_differences(after, {"buffer a": torch.zeros(2)}, exact)
    assert difference.path == "buffer a"
    assert state.not_carried(before, after, {"buffer a": torch.ones(2)}) == ["buffer b"]
    with pytest.raises(StateDiffers, match="does not start in the module"):
        state.raise_if_moved_on(before, {"buffer a": torch.ones(2)}, ["buffer a, net.py:3"])


def test_what_the_first_call_returns_is_not_states_business():
    (difference,) = carried_differences(
        {"output": torch.ones(1)}, {"output": torch.zeros(1)}, Tolerance()
    )
    state.raise_if_parted(1, 3, [difference], [], stateful=True)
    with pytest.raises(StateDiffers, match="call 2 of 3"):
        state.raise_if_parted(2, 3, [difference], [], stateful=True)


# -- legal calls --------------------------------------------------------------------------------------


def test_what_was_declared_wrongly_is_told_before_what_the_exporter_makes_of_it():
    class Window(nn.Module):
        def forward(self, x):
            if x.shape[1] < 5:
                raise ValueError("too short")
            return x.unfold(1, 5, 1).amax(-1)

    found = verdict_of(
        Window(), X(2, 6), target="export", shapes={"x": "batch time"}, dims={"time": (3, 8)}
    )
    assert found.failure == "SpecError"
    assert "too short" in found.reason


def test_an_expression_of_pages_is_cut():
    long = suspicion(actual="Mod(h, 4) + " * 200)
    with pytest.raises(DimsNarrowed) as caught:
        dims.check([long], lambda _: OutputsDiffer("x"))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("kind", "failure"), [("crashed", ArtifactCrashed), ("hung", ArtifactHung)]
)
def test_a_death_in_a_row_is_told_as_such_with_its_place(kind, failure):
    died = Difference(kind=kind, path="", expected="returned", actual="it died", what="said")
    with pytest.raises(failure, match="it died") as caught:
        state.raise_if_parted(2, 3, [died], [], stateful=True)
    assert caught.value.details == ("call 2 of 3 in a row",)
