"""checks/state.py with exporters: state that tracing moves, that formats drop, and that only some calls change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export


def X(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def verdict_of(module, *args, target="trace", **options):
    return check_export(module, args, target=target, max_examples=10, **options)


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        self.steps += 1
        return x * 2


def test_a_trace_that_counted_while_tracing_is_told_from_one_that_did_not():
    found = verdict_of(Steps(), X(2, 3))
    assert found.failure == "StateDiffers"
    assert found.differences[0].path == "buffer steps"
    assert found.where.text == "self.steps += 1"
    assert verdict_of(Steps(), X(2, 3), target="export").status == "passed"


class WarmsUp(nn.Module):
    def __init__(self, calls):
        super().__init__()
        self.seen = 0
        self.calls = calls

    def forward(self, x):
        self.seen += 1
        return x * 2 if self.seen > self.calls else x


def test_a_row_is_as_long_as_a_condition_needs():
    found = verdict_of(WarmsUp(5), X(2, 3))
    assert found.failure == "StateDiffers"
    assert found.reason.startswith("call 6 of 6 in a row")


def test_what_a_longer_row_would_need_is_a_warning_and_fails_under_strict():
    (warning,) = verdict_of(WarmsUp(100), X(2, 3)).ineffective
    assert "if self.seen > self.calls else x" in warning
    assert "no call in a row of 12 made it True" in warning
    assert verdict_of(WarmsUp(100), X(2, 3), strict=True).failure == "Ineffective"
    assert verdict_of(WarmsUp(100), X(2, 3), target="script").ineffective == ()


class StepsAndSize(Steps):
    """torch warns of a line that has nothing to do with the state."""

    def forward(self, x):
        if len(x) == 0:
            return x
        return super().forward(x)


def test_where_is_the_line_that_writes_the_state_not_one_that_torch_warns_of():
    found = verdict_of(StepsAndSize(), X(2, 3))
    assert found.failure == "StateDiffers"
    assert any("TracerWarning" in warning for warning in found.warnings)
    assert found.where.text == "self.steps += 1"
    (note,) = [note for note in found.notes if "forward changes" in note]
    assert found.where.text in note
    assert not found.details  # the note says it once


def test_where_is_the_line_that_extends_a_container_not_one_that_torch_warns_of():
    class Largest(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, x):
            if len(x) == 0:
                return x
            self.seen.append(1)
            return x + len(self.seen)

    found = verdict_of(Largest(), X(2, 3), checks=["state"])
    assert found.failure == "StateDiffers"
    assert found.where.text == "self.seen.append(1)"


def test_a_buffer_that_onnx_drops_and_no_output_shows_is_a_note():
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    found = verdict_of(Steps(), X(2, 3), target="onnx")
    assert found.status == "passed"
    assert "the artifact does not carry buffer steps, which forward changes" in found.notes


def test_state_is_followed_over_calls_of_other_values_and_sizes():
    class Largest(nn.Module):
        """Equal calls never show that the artifact forgets."""

        def __init__(self):
            super().__init__()
            self.largest = 0.0

        def forward(self, x):
            self.largest = max(self.largest, float(x.abs().max()))
            return x / max(self.largest, 1e-3)

    found = verdict_of(Largest(), X(2, 3), checks=["state"])
    assert found.failure == "StateDiffers"


class Late(nn.Module):
    """Changes itself on calls that are unlike the example."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        if x.shape[0] > 3:
            self.calls += 1
        return x + self.calls


def test_state_that_the_example_does_not_change_is_found_out():
    found = verdict_of(Late(), X(2, 3))
    assert found.failure == "BranchFrozen"
    assert found.where.text.endswith("if x.shape[0] > 3:")
    assert any("attribute calls on some calls" in note for note in found.notes)


class LateStatistics(nn.Module):
    """A native kernel moves the buffers, on large calls alone, and no version counter tells."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("var", torch.ones(3))

    def forward(self, x):
        if x.shape[0] > 3:
            return torch.nn.functional.batch_norm(x, self.mean, self.var, training=True)
        return torch.nn.functional.batch_norm(x, self.mean, self.var)


class LateWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        if x.shape[0] > 3:
            self.weight.data.mul_(0.5)
        return x * self.weight


@pytest.mark.parametrize("module", [LateStatistics, LateWeights])
def test_late_state_of_a_faithful_script_is_no_failure(module):
    found = verdict_of(module(), X(2, 3), target="script")
    assert found.status == "passed", found.reason
