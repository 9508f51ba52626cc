"""checks/dims.py: a suspicion about sizes is a failure if a call confirms it, else a note."""

from __future__ import annotations

import pytest

from pytest_torchexport.checks import dims
from pytest_torchexport.results.failures import DimsNarrowed, OutputsDiffer
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats.sizes import Suspicion


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
    assert dims.check([suspicion(is_torchs_minimum=True)], passes) == []


def test_torchs_own_lower_bound_is_not_blamed_for_another_guard():
    def witness(sizes):
        return DimsNarrowed("Guard failed: 4 * x.size()[0] != 8") if sizes["batch"] == 5 else None

    with pytest.raises(DimsNarrowed, match="a guard of the program refuses batch = 5") as info:
        dims.check([suspicion(is_torchs_minimum=True)], witness)
    assert info.value.details[0] == "at batch = 5: Guard failed: 4 * x.size()[0] != 8"


def guarded(*refused):
    def witness(sizes):
        return DimsNarrowed("Guard failed: ...") if sizes["batch"] in refused else None

    return witness


LOWEST = {"actual": "2 or more", "sizes": ({"batch": 1},), "is_torchs_minimum": True, "where": None}


def test_torchs_own_lower_bound_is_the_cause_only_if_the_next_size_is_right():
    lowest = suspicion(**LOWEST, taken=({"batch": 2}, {"batch": 3}))
    with pytest.raises(DimsNarrowed, match="the program says 2 or more") as info:
        dims.check([lowest], guarded(1, 8))
    assert info.value.details[0].startswith("at batch = 1: ")
    with pytest.raises(DimsNarrowed, match="the program fails at batch = 2 too") as info:
        dims.check([lowest], guarded(1, 2, 3))
    assert info.value.details[0].startswith("at batch = 2: ")
    with pytest.raises(DimsNarrowed, match="the program says 2 or more"):
        dims.check([suspicion(**LOWEST)], guarded(1))  # no other size is legal


def test_what_is_wrong_at_sizes_that_torch_takes_is_left_to_parity():
    def witness(sizes):
        return OutputsDiffer("x") if sizes["batch"] % 2 else None

    assert dims.check([suspicion(**LOWEST, taken=({"batch": 2}, {"batch": 3}))], witness) == []


def test_an_expression_of_pages_is_cut():
    long = suspicion(actual="Mod(h, 4) + " * 200)
    with pytest.raises(DimsNarrowed) as caught:
        dims.check([long], lambda _: OutputsDiffer("x"))
    assert len(str(caught.value)) < 400
