"""diagnosis/questions.py: a question is named if eager with the other answer is the artifact."""

from __future__ import annotations

import pytest
import torch
from slow import slow
from torch import nn

from pytest_torchexport import check_export

X = torch.ones(3, 4)


class Traced(nn.Module):
    def forward(self, x):
        if torch.jit.is_tracing():
            return x.clamp(max=0.5)
        return x


class Compiled(nn.Module):
    def forward(self, x):
        return x + 1 if torch.compiler.is_compiling() else x


class InOnnx(nn.Module):
    def forward(self, x):
        return x + 1 if torch.onnx.is_in_onnx_export() else x


class Scripted(nn.Module):
    def forward(self, x):
        if torch.jit.is_scripting():
            x = x + 1
        return x


class Twice(nn.Module):
    """The first question changes nothing."""

    def forward(self, x):
        y = x + x if torch.jit.is_tracing() else x * 2
        return y + 1 if torch.jit.is_tracing() else y  # this one


class Together(nn.Module):
    """Neither answer alone gives what the trace computes."""

    def forward(self, x):
        x = x + 1 if torch.jit.is_tracing() else x
        return x * 3 if torch.jit.is_tracing() else x


class Baked(nn.Module):
    """Its question changes nothing; the trace is wrong for another reason."""

    def forward(self, x):
        y = x + x if torch.jit.is_tracing() else x * 2
        return y * float(x.sum())


class Shorter(nn.Module):
    """The old ONNX exporter returns a list of one as its element."""

    def forward(self, x):
        return [x + 1] if torch.jit.is_tracing() else [x + 1, x]


class AnyOfSmall(nn.Module):
    """Its question changes nothing; the old ONNX exporter makes whole numbers of what any takes."""

    def forward(self, x):
        y = x + x if torch.jit.is_tracing() else x * 2
        return torch.any(y * 0.1, dim=1)


class Mode(nn.Module):
    def forward(self, x):
        if torch.is_grad_enabled():
            return x * 2
        return x.sin()


class Silent(nn.Module):
    """Depends on the mode without a question."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        y = x * self.weight
        if y.requires_grad:
            return y * 2
        return y


def diagnosis_of(module, target="trace"):
    found = check_export(module, (X,), target=target, checks=["parity"], max_examples=5)
    assert found.failure == "OutputsDiffer", found
    assert found.diagnosis.not_examined == ()
    return found


class Parent(nn.Module):
    """Has a submodule before what only the trace runs."""

    def __init__(self):
        super().__init__()
        self.part = nn.Linear(4, 4)

    def forward(self, x):
        y = self.part(x)
        if torch.jit.is_tracing():
            y = y + 1
        return y


def test_an_operator_of_the_trace_alone_has_its_own_line_and_no_module_of_eagers():
    place = diagnosis_of(Parent()).diagnosis.place
    assert str(place) == "aten.add"
    assert place.where.text == "y = y + 1"


@pytest.mark.parametrize(
    ("module", "target"),
    [
        (Traced, "trace"),
        (Compiled, "export"),
        (InOnnx, "onnx_legacy"),
        (Scripted, "script"),
        (Twice, "trace"),
    ],
)
def test_the_question_is_the_cause_with_its_line(module, target):
    found = diagnosis_of(module(), target)
    (cause,) = found.diagnosis.causes
    assert cause.kind == "export-only branch"
    assert f"() is True on {target}: " in cause.text
    assert found.diagnosis.owner == "model"
    assert found.where == cause.where
    assert "this one" in cause.where.text or module is not Twice
    assert "torch." in cause.where.text


def test_a_question_is_the_cause_of_what_torch_captured_though_the_file_returns_yet_something_else():
    found = check_export(
        Shorter(), (X,), target="onnx_legacy", checks=["parity"], max_examples=5
    ).diagnosis
    (cause,) = found.causes
    assert cause.text.endswith("with this answer eager returns what torch captured")
    assert cause.where.text.startswith("return [x + 1] if torch.jit.is_tracing()")
    assert found.owner == "model"


def test_questions_that_only_together_are_the_cause_are_all_named():
    (cause,) = diagnosis_of(Together()).diagnosis.causes
    assert len(cause.details) == 2


@pytest.mark.parametrize("target", ["trace", "onnx_legacy"])
def test_a_question_beside_the_cause_is_not_named(target):
    (cause,) = diagnosis_of(Baked(), target).diagnosis.causes
    assert cause.kind == "baked value"


def test_a_question_beside_what_the_old_exporter_translates_wrongly_is_not_named():
    found = diagnosis_of(AnyOfSmall(), "onnx_legacy").diagnosis
    assert (found.owner, found.causes) == ("translation", ())


@pytest.mark.parametrize("module", [Mode, Silent])
def test_the_grad_mode_is_named_with_the_operator_that_differs(module):
    found = diagnosis_of(module(), "script")
    (cause,) = found.diagnosis.causes
    assert cause.kind == "mode-dependent operator"
    assert "under torch.no_grad() eager returns what the artifact does" in cause.text
    *asked, operator = cause.details
    assert "the first other operator is aten.mul.Tensor with gradients" in operator
    assert bool(asked) == (module is Mode)
    assert found.diagnosis.owner is None


@slow
def test_the_fast_path_of_torchs_layers_is_named_with_both_lines():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1)

        def forward(self, x, keep):
            return self.encoder(x, src_key_padding_mask=torch.logical_not(keep))

    keep = torch.tensor([[True] * 4, [True, False, True, False]])
    found = check_export(
        Encoder().eval(), (torch.randn(2, 4, 4), keep), target="script", checks=["parity"]
    )
    assert found.failure == "OutputsDiffer", found
    cause = found.diagnosis.causes[-1]
    assert "torch/nn/modules/transformer.py" in cause.details[0]
    assert "self.encoder(x" in cause.details[0]
    assert "self.encoder(x" in found.where.text
