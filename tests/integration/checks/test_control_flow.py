"""checks/control_flow.py on whole models: the failure class, the line and the call; and healthy look-alikes."""

from __future__ import annotations

import pytest
import torch
from slow import slow
from torch import Tensor, nn

from pytest_torchexport import check_export
from pytest_torchexport.checks import control_flow

CHECKS = ("parity", "control_flow")


def verdict_of(module, *args, target="trace", kwargs=None, **options):
    return check_export(
        module.eval(), args, kwargs, target=target, checks=CHECKS, max_examples=5, **options
    )


class Expert(nn.Module):
    def __init__(self, scale: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.weight, Tensor) and x.dtype == self.weight.dtype:
            x = x + 0
        return x * self.weight


class Routed(nn.Module):
    """Experts chosen by an index drawn from a tensor, without a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([Expert(scale) for scale in (1, 2, 3)])

    def forward(self, x: Tensor) -> Tensor:
        return self.experts[int((x.sum() > 0).long() + (x.mean() > 1).long())](x)


@slow
def test_a_condition_that_only_another_expert_has_is_not_to_blame():
    found = verdict_of(Routed(), -torch.rand(3, 4), values={"x": (-5.0, 5.0)})
    assert found.failure == "OutputsDiffer"
    assert "self.experts[int(" in found.where.text


class Stop(nn.Module):
    """Its script is wrong behind an equality of whole numbers."""

    def forward(self, ids: Tensor) -> Tensor:
        if bool(ids[0] == 5):
            if torch.jit.is_scripting():
                return ids * 0.5
            return ids * 2.0
        return ids * 1.0


class WholeMask(nn.Module):
    """Its script is wrong where a mask of zeros and ones is all ones."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if bool(mask.all()):
            if torch.jit.is_scripting():
                return x * 3.0
            return x * 2.0
        return x * mask


class Threshold(nn.Module):
    """Its script is wrong above a threshold."""

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 1.0):
            if torch.jit.is_scripting():
                return x * 3.0
            return x * 2.0
        return x


@pytest.mark.parametrize(
    ("module", "args", "options"),
    [
        (Stop(), (torch.tensor([1, 2, 3]),), {"values": {"ids": (0, 9)}}),
        (WholeMask(), (torch.randn(3, 4), torch.tensor([[1.0, 0.0, 1.0, 1.0]] * 3)), {}),
        (Threshold(), (torch.zeros(3, 4),), {}),
    ],
    ids=["token", "mask", "threshold"],
)
def test_what_is_wrong_behind_a_branch_of_both_is_not_excused_as_rounding(module, args, options):
    found = verdict_of(module, *args, target="script", **options)
    assert found.failure == "OutputsDiffer"
    assert any("diverges" in row.status.values() for row in found.branches)


class Wobbly(nn.Module):
    """A predicate that ONNX Runtime and eager may decide otherwise on its threshold, and a script never."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x * 0.1).sum() > (x.sum() * 0.1)):
            return x + 1.0
        return x - 1.0


def test_a_script_that_decides_alike_passes_on_the_threshold_too():
    assert verdict_of(Wobbly(), torch.randn(3, 4), target="script").status == "passed"


class Mixed(nn.Module):
    """torch.jit.trace refuses what the other branch returns."""

    def forward(self, x: Tensor, more: bool = False) -> dict:
        out = {"y": x * 2}
        if more:
            out["z"] = ()
        return out


def test_a_failing_call_that_cannot_be_traced_has_a_name_and_no_proof():
    options = {"values": {"more": [False, True]}}
    found = verdict_of(Mixed(), torch.randn(3, 4), kwargs={"more": False}, **options)
    assert found.failure == "BranchFrozen"
    assert "if more" in found.where.text
    assert any("exported at this call it is refused" in line for line in found.details)
    assert found.baked == ("more=False",)


class Lengths(nn.Module):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        total = torch.zeros(x.shape[0])
        for t in range(int(lengths.max())):
            total = total + x[:, t]
        return total


def test_a_loop_that_ran_another_number_of_times_is_shrunk_and_listed():
    options = {"shapes": {"x": "2 5", "lengths": "2"}, "values": {"lengths": (0, 5)}}
    found = verdict_of(Lengths(), torch.randn(2, 5), torch.tensor([3, 2]), **options)
    assert found.failure == "BranchFrozen"
    assert "for t in range(int(lengths.max()))" in found.where.text
    assert "normal" not in found.call
    assert any("diverges" in row.status.values() for row in found.branches if row.kind == "for")


class Growing(nn.Module):
    """Keeps the longest length it has seen, and asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.longest = 6

    def forward(self, x: Tensor) -> Tensor:
        scale = 1.0
        if x.shape[1] > self.longest:
            self.longest = x.shape[1]
            scale = 2.0
        if x.shape[1] < 3:
            self.longest = 6
        return x * scale


def test_what_a_call_leaves_behind_does_not_reach_the_next_one_in_the_search():
    options = {"shapes": {"x": "batch time"}, "dims": {"time": (1, 12)}}
    found = verdict_of(Growing(), torch.randn(2, 4), **options)
    assert found.failure == "BranchFrozen"
    assert "if x.shape[1] > self.longest" in found.where.text


class Configured(nn.Module):
    """Nothing that an input steers: flags, types, a helper that is asked for names."""

    def __init__(self) -> None:
        super().__init__()
        self.flag = False
        self.depth = 2

    def pick(self, name: str) -> float:
        return 1.0 if name != "zzz" and name in ("a", "b") else 2.0

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2 if x.sum() > 0 else x + x
        if self.flag or hasattr(self, "nothing") or isinstance(x, list):
            y = y + 1
        n = int((x > 100).sum())
        if self.depth == 0:
            y = y - 1
        return y * self.pick("a") * self.pick("b") + n * 0


def test_the_configuration_is_no_branch_of_the_inputs():
    found = verdict_of(Configured(), torch.randn(3, 4))
    assert found.status == "passed"
    assert found.ineffective == ()
    assert [row.text for row in found.branches if row.steered] == ["x.sum() > 0"]


class Caught(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        try:
            return x.view(7)
        except RuntimeError:
            return x * 2


def test_a_trace_that_would_kill_the_interpreter_is_not_made():
    found = verdict_of(Caught(), torch.randn(3, 4))
    assert found.failure == "ExportRefused"
    assert "it was killed" in found.reason


class BakedBehindAHarmlessBranch(nn.Module):
    """Both sides of the branch are the same; what is wrong is a number drawn after it."""

    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 10:  # noqa: SIM108  # a branch of two equal sides is the point
            y = x * 2
        else:
            y = x * 2.0
        n = int(x.max() > 100)
        return y * (1 + n)


def test_a_harmless_branch_on_the_way_is_not_to_blame():
    found = verdict_of(
        BakedBehindAHarmlessBranch(), torch.randn(3, 4), values={"x": (-1000.0, 1000.0)}
    )
    assert found.failure == "OutputsDiffer"


class Rounds(nn.Module):
    def forward(self, x: Tensor, n: int = 3) -> Tensor:
        i = 0
        while i < n:
            x = x + 1
            i += 1
        return x


def test_a_while_that_goes_round_often_and_quickly_ends():
    options = {"values": {"n": (1, 5000)}}
    found = verdict_of(Rounds(), torch.randn(3, 4), kwargs={"n": 3}, target="script", **options)
    assert found.status == "passed", found.reason


class ScriptedOtherwise(nn.Module):
    """Its script compares with the number just below: nothing was rounded, the maximum is an element."""

    def __init__(self) -> None:
        super().__init__()
        self.above = 0.5
        self.scripted = 0.49999997

    def forward(self, x: Tensor) -> Tensor:
        above = self.scripted if torch.jit.is_scripting() else self.above
        if bool(x.max() > above):
            return x.sum(1) * 0 + 1
        return x.sum(1) * 0


def test_a_threshold_that_moved_is_not_excused_where_elements_are_compared():
    options = {"values": {"x": (0.0, 0.5)}}
    found = verdict_of(ScriptedOtherwise(), torch.rand(3, 4) / 2, target="script", **options)
    assert found.failure == "OutputsDiffer"


class NotReentrant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.busy = [False]

    def forward(self, x: Tensor) -> Tensor:
        if self.busy[0]:
            raise RuntimeError("reentrant")
        self.busy[0] = True
        y = x * 2 if x.sum() > 13 * x.abs().max() else x + x
        self.busy[0] = False
        return y


def test_no_call_of_the_search_is_cut_in_the_middle():
    found = verdict_of(NotReentrant(), torch.randn(3, 4))
    assert found.status == "passed", found.reason


class CaughtAndSurvived(nn.Module):
    """torch.jit.trace lives through this one."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            n = int(x.item())
        except RuntimeError:
            n = 2
        return x * n


def test_a_trace_that_lives_through_what_is_caught_is_made():
    options = {"shapes": {"x": "..."}}
    found = verdict_of(CaughtAndSurvived(), torch.randn(3, 4), **options)
    assert found.status == "passed", found.reason


class Clamped(nn.Module):
    """What only half precision takes, on a name that a number read from a tensor was assigned to."""

    def forward(self, x: Tensor) -> Tensor:
        if not bool(x.isfinite().all()):
            raise ValueError("not finite")
        x = x.clamp(max=x.abs().max())
        if x.dtype == torch.float16:
            x = x.clamp(max=torch.finfo(x.dtype).max - 1000)
        return x * 2


class ClampedByValue(Clamped):
    """The same, with an outcome that numbers decide and no call takes."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        most = x.abs().max().item()
        if most > torch.finfo(x.dtype).max / 2:
            x = x / 2
        return x


def test_a_dtype_that_no_call_has_is_no_outcome_that_was_missed():
    found = verdict_of(Clamped(), torch.randn(3, 4))
    assert found.ineffective == ()
    (branch,) = (each for each in found.branches if "dtype" in each.text)
    assert branch.status == {"True": "constant", "False": "constant"}
    (said,) = verdict_of(ClampedByValue(), torch.randn(3, 4)).ineffective
    assert "if most > torch.finfo(x.dtype).max / 2: no call made it True" in said


class EmptyGuard(nn.Module):
    """The usual guard: no legal call is empty."""

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return x
        return x * 2


class LongGuard(nn.Module):
    """A threshold above the sizes that were assumed."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 512:
            return x
        return x * 2


def test_that_nothing_is_empty_is_no_news_and_that_nothing_is_long_is():
    assert verdict_of(EmptyGuard(), torch.randn(3, 4)).ineffective == ()
    said = verdict_of(LongGuard(), torch.randn(3, 4)).ineffective
    assert len(said) == 1
    assert "if x.shape[0] > 512: no call made it True" in said[0]


class TwoSides(nn.Module):
    """Both sides are the same: no call can fail, and only the search knows what it has not seen."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e6:
            return x * 2
        return x + x


@pytest.mark.parametrize("strict", [False, True])
def test_a_search_that_time_ended_is_a_warning_and_a_failure_under_strict(monkeypatch, strict):
    monkeypatch.setattr(control_flow, "SECONDS_PER_CALL", 0.0)
    found = verdict_of(TwoSides(), torch.rand(3, 4), values={"x": (0.0, 1.0)}, strict=strict)
    assert [
        line for line in found.ineffective if line.startswith("the search for branches stopped")
    ]
    assert found.failure == ("Ineffective" if strict else None)


def test_a_search_that_came_to_its_end_is_no_warning():
    found = verdict_of(TwoSides(), torch.rand(3, 4), values={"x": (0.0, 1.0)})
    assert not [line for line in found.ineffective if line.startswith("the search for branches")]
