"""Verdicts on sizes, state, randomness and legal calls, of artifacts that exporters made."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export


def X(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def verdict_of(module, *args, target="trace", **options):
    return check_export(module, args, target=target, max_examples=10, **options)


# -- sizes -------------------------------------------------------------------------------------------


class OnlyLarge(nn.Module):
    """Values decide, at every size."""

    def forward(self, x):
        captured = torch.compiler.is_compiling() or torch.jit.is_tracing()
        return torch.where(x > 2, x * 2, x) if captured else x


def test_a_failure_at_every_size_is_not_blamed_on_a_size():
    found = verdict_of(OnlyLarge(), X(2, 3), target="export", values={"x": (-4.0, 4.0)})
    assert found.failure == "OutputsDiffer"


# -- state -------------------------------------------------------------------------------------------


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
    assert "test_judgments.py" in found.details[0]
    assert verdict_of(Steps(), X(2, 3), target="export").status == "passed"


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


# -- chance ------------------------------------------------------------------------------------------


def test_a_constant_where_eager_varies_names_where_it_draws():
    class Chance(nn.Module):
        def forward(self, x):
            return x * random.random()  # no secret

    found = verdict_of(Chance(), X(2, 3))
    assert found.failure == "OutputsDiffer"
    assert found.reason == (
        "the artifact is constant where eager varies with the random seed: output"
    )
    assert "Python's random" in found.details[0]


class NoiseBeside(nn.Module):
    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def forward(self, x):
        y = x * 3 if self.wrong and torch.compiler.is_compiling() else x * 2
        return x + torch.rand_like(x), y


@pytest.mark.parametrize(("wrong", "outcome"), [(True, "failed"), (False, "skipped")])
def test_what_is_not_random_is_judged_on_another_stream_too(wrong, outcome):
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    found = verdict_of(NoiseBeside(wrong), X(2, 3), target="onnx")
    assert found.status == outcome
    if wrong:
        assert [item.path for item in found.differences] == ["output[1]"]
    else:
        assert "the values of output[0] cannot be compared" in found.reason


# -- legal calls --------------------------------------------------------------------------------------


class Shares(nn.Module):
    def __init__(self, size=None):
        super().__init__()
        self.size = size

    def forward(self, x):
        if not torch.jit.is_tracing():
            if self.size not in (None, len(x)):
                raise ValueError(f"{self.size} rows only")
            if ((x.sum(-1) - 1).abs() > 1e-5).any():
                raise ValueError("rows must sum to one")
        return x * 2


def test_where_eager_takes_the_examples_values_alone_sizes_still_vary():
    found = verdict_of(Shares(), torch.softmax(X(3, 4), -1))
    assert found.status == "passed"
    assert len(found.reached["batch"]) > 1
    assert found.ineffective == (
        "eager takes no other values than the example's: only sizes varied",
    )


def test_where_no_size_varies_either_nothing_was_checked():
    found = verdict_of(Shares(3), torch.softmax(X(3, 4), -1))
    assert found.failure == "Ineffective"
    assert found.reason == "eager takes 1 different calls of all that were generated"
    assert found.details[0] == "the first that it refused: ValueError: rows must sum to one"
    assert "map=" in found.details[1]


def test_a_map_that_makes_calls_legal_is_enough():
    found = verdict_of(
        Shares(3),
        torch.softmax(X(3, 4), -1),
        map=lambda x: {"x": x.softmax(-1)},
    )
    assert found.status == "passed"
    assert found.ineffective == ("eager takes only one size of batch",)


class Halves(nn.Module):
    """Takes even numbers of rows, and its trace the example's alone."""

    def forward(self, x):
        if x.shape[0] % 4:
            raise ValueError("fours only")
        return x.reshape(int(x.shape[0]) // 2, -1)


def test_sizes_that_are_legal_in_steps_are_found():
    found = verdict_of(Halves(), X(8, 3))
    assert found.failure == "OutputsDiffer" or found.failure == "ArtifactRaised"
    assert "eager accepts 4 <= batch <= 16 in steps of 4 (assumed was 1..16)" in found.notes


def test_one_size_taken_by_broadcasting_is_no_step():
    class Added(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.Parameter(torch.ones(4, 3))

        def forward(self, x):
            return x + self.rows

    found = verdict_of(Added(), X(4, 3))
    assert found.status == "passed"
    assert found.reached == {}
    assert found.ineffective == ("eager takes only one size of batch",)


def test_nan_at_a_declared_size_is_a_difference():
    class Mean(nn.Module):
        def forward(self, x):
            return x.nan_to_num().mean(0).nan_to_num() if torch.jit.is_tracing() else x.mean(0)

    found = verdict_of(Mean(), X(2, 3), shapes={"x": "n 3"}, dims={"n": (0, 4)})
    assert found.failure == "OutputsDiffer"
    assert found.differences[0].expected == "nan"
