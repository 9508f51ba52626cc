"""What an item is judged by besides its values: sizes, state, chance, legal calls. Each seen failing."""

from __future__ import annotations

import random

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


def test_tensors_of_one_name_are_compared_and_others_are_listed():
    before = {"buffer a": torch.zeros(2), "buffer b": torch.zeros(2)}
    after = {"buffer a": torch.ones(2), "buffer b": torch.ones(2)}
    exact = Tolerance(0.0, 0.0)
    assert carried_differences(after, {"buffer a": torch.ones(2)}, exact) == []
    (difference,) = carried_differences(after, {"buffer a": torch.zeros(2)}, exact)
    assert difference.path == "buffer a"
    assert state.not_carried(before, after, {"buffer a": torch.ones(2)}) == ["buffer b"]
    with pytest.raises(StateDiffers, match="does not start where"):
        state.raise_if_moved_on(before, {"buffer a": torch.ones(2)}, ["buffer a, net.py:3"])


def test_what_the_first_call_returns_is_not_states_business():
    (difference,) = carried_differences(
        {"output": torch.ones(1)}, {"output": torch.zeros(1)}, Tolerance()
    )
    state.raise_if_parted(1, 3, [difference], [], stateful=True)
    with pytest.raises(StateDiffers, match="call 2 of 3"):
        state.raise_if_parted(2, 3, [difference], [], stateful=True)


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
