"""checks/worth.py: doubts about a pass, and seeded bugs."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from pytest_torchexport import Ineffective, check_export
from pytest_torchexport.results.verdict import SeededBug

X = torch.ones(2, 3)


class Difference(nn.Module):
    def forward(self, x: Tensor, y: Tensor, scale: float = 2.0) -> Tensor:
        return x - scale * y


def checked(target, *args, **kwargs):
    verdict = check_export(
        Difference(), args, kwargs, target=target, max_examples=2, checks=("parity",)
    )
    assert verdict.status == "passed"
    return verdict


def test_inputs_of_a_file_in_another_order_are_a_warning():
    (caution,) = checked("onnx", y=X, x=X.clone()).cautions
    assert caution.startswith("the file's inputs are in the order y, x")
    assert checked("trace", y=X, x=X.clone()).cautions == ()


class ScaledSequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 4)

    def forward(self, scale, x):
        return self.rnn(x)[0] * scale


def test_the_sequence_is_named_also_behind_an_input_without_dimensions():
    verdict = check_export(
        ScaledSequence(),
        (torch.tensor(2.0), torch.randn(5, 2, 3)),
        target="export",
        checks=("parity",),
        max_examples=1,
    )
    assert verdict.status == "passed", verdict.reason
    (warning,) = verdict.ineffective
    assert warning.startswith("dim 0 of x is a sequence of 5: the artifact is not right at 6")
    assert warning.endswith("""shapes={'x': "sequence batch 3"}, or not, with "5 batch 3\"""")


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        y = self.layer(x)
        return {"y": y, "best": y.argmax(-1)}


def seeded(module, *args, **options):
    torch.manual_seed(0)
    verdict = check_export(module, args, target="trace", self_test=True, **options)
    assert verdict.status == "passed", verdict.reason
    return {bug.name: bug.result for bug in verdict.self_test}


def test_every_seeded_bug_of_a_plain_model_is_caught():
    assert seeded(Two(), torch.randn(2, 4)) == {
        "frozen size of batch": "caught",
        "perturbed weight": "caught",
        "dropped output": "caught",
        "cast to half": "caught",
        "swapped branch": "caught",
    }


def test_what_does_not_apply_says_why():
    verdict = check_export(torch.relu, (torch.randn(2, 4),), target="trace", self_test=True)
    bugs = {bug.kind: bug for bug in verdict.self_test}
    assert bugs["perturbed weight"] == SeededBug(
        kind="perturbed weight", result="does not apply", explanation="there are no weights"
    )
    assert bugs["dropped output"].result == "does not apply"
    assert bugs["dropped output"].explanation == (
        "there is only one output, or a container of a class of its own"
    )
    fixed = seeded(Two(), torch.randn(2, 4), shapes={"x": "..."})
    assert fixed["frozen size"] == "does not apply"
    fixed = seeded(Two(), torch.randn(3, 4), shapes={"x": "batch 4"}, dims={"batch": [3]})
    assert fixed["frozen size of batch"] == "does not apply"
    assert seeded(Two(), torch.randn(2, 4), checks=["state"]) == {"every bug": "does not apply"}


def test_what_caught_a_bug_or_how_many_calls_missed_it_is_explained():
    verdict = check_export(
        Two(), (torch.randn(2, 4),), target="trace", self_test=True, rtol=0.5, atol=0.5
    )
    bugs = {bug.name: bug for bug in verdict.self_test}
    frozen, half = bugs["frozen size of batch"], bugs["cast to half"]
    assert (frozen.kind, frozen.dim, frozen.result) == ("frozen size", "batch", "caught")
    assert re.fullmatch(r"call \d+ of \d+ \(\w+\), \w+", frozen.explanation)
    assert re.fullmatch(r"\d+ calls agree", half.explanation)
    assert (half.result, bugs["dropped output"].result) == ("missed", "caught")
    verdict = check_export(
        Two(), (torch.randn(2, 4),), target="trace", self_test=True, strict=True, rtol=0.5, atol=0.5
    )
    assert verdict.failure == Ineffective.__name__
    assert "cast to half" in verdict.reason


class Scaled(nn.Module):
    def __init__(self, factor, *, loops=False):
        super().__init__()
        self.factor = factor
        self.loops = loops
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        while self.loops and float((self.weight - 1).abs().max()) > 1e-6:
            x = x * 1.0
        return x + self.factor * self.weight


def test_a_weight_that_does_not_matter_proves_nothing():
    assert seeded(Scaled(0), torch.randn(2, 3))["perturbed weight"] == "does not apply"
    assert seeded(Scaled(1), torch.randn(2, 3))["perturbed weight"] == "caught"


def test_eager_that_does_not_return_with_other_weights_ends_all_the_same(monkeypatch):
    from pytest_torchexport.checks import worth

    monkeypatch.setattr(worth, "SHARE_EACH", 0.003)
    found = seeded(Scaled(1, loops=True), torch.randn(2, 3))
    assert found["perturbed weight"] == "does not apply"
    assert found["frozen size of batch"] == "caught"
