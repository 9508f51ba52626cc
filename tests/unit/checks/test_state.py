"""checks/state.py: what the artifact carries, and which call of a row differs."""

from __future__ import annotations

import pytest
import torch

from pytest_torchexport.checks import state
from pytest_torchexport.judge.judge import carried_differences
from pytest_torchexport.outcomes.compare import Tolerance
from pytest_torchexport.results.failures import ArtifactCrashed, ArtifactHung, StateDiffers
from pytest_torchexport.results.verdict import Difference


def test_tensors_of_one_name_are_compared_and_others_are_listed():
    before = {"buffer a": torch.zeros(2), "buffer b": torch.zeros(2)}
    after = {"buffer a": torch.ones(2), "buffer b": torch.ones(2)}
    exact = Tolerance(0.0, 0.0)
    assert carried_differences(after, {"buffer a": torch.ones(2)}, exact) == []
    (difference,) = carried_differences(after, {"buffer a": torch.zeros(2)}, exact)
    assert difference.path == "buffer a"
    assert state.not_carried(before, after, {"buffer a": torch.ones(2)}) == ["buffer b"]
    with pytest.raises(StateDiffers, match="does not start in the module"):
        state.raise_if_moved_on(before, {"buffer a": torch.ones(2)}, {})


def test_what_the_first_call_returns_is_not_states_business():
    (difference,) = carried_differences(
        {"output": torch.ones(1)}, {"output": torch.zeros(1)}, Tolerance()
    )
    state.raise_if_parted(1, 3, [difference], {}, stateful=True)
    with pytest.raises(StateDiffers, match="call 2 of 3"):
        state.raise_if_parted(2, 3, [difference], {}, stateful=True)


@pytest.mark.parametrize(
    ("kind", "failure"), [("crashed", ArtifactCrashed), ("hung", ArtifactHung)]
)
def test_a_death_in_a_row_is_told_as_such_with_its_place(kind, failure):
    died = Difference(kind=kind, path="", expected="returned", actual="it died", what="said")
    with pytest.raises(failure, match="it died") as caught:
        state.raise_if_parted(2, 3, [died], {}, stateful=True)
    assert caught.value.details == ("call 2 of 3 in a row",)
