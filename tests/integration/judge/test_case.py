"""judge/case.py: eager is called and exported in the grad mode of the caller, the artifact without
gradients.
"""

from __future__ import annotations

import pytest
import torch
from slow import slow
from torch import nn

from pytest_torchexport import check_export, register_target
from pytest_torchexport.config import names
from pytest_torchexport.eager.reference import RETURNS_WITHOUT_GRADIENTS
from pytest_torchexport.judge.case import NOT_IN_INFERENCE_MODE
from pytest_torchexport.outcomes.torch_state import WITHOUT_AUTOCAST, GradMode
from pytest_torchexport.targets import DirectArtifact, ProgramFacts, TargetTraits
from pytest_torchexport.targets.script import Script
from pytest_torchexport.targets.trace import Trace

MODES = (torch.enable_grad, torch.no_grad, torch.inference_mode)
X = (torch.ones(3, 4),)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(4))

    def forward(self, x):
        self.calls.add_(1)
        return x * self.calls


class Asks(nn.Module):
    def forward(self, x):
        if torch.is_grad_enabled():
            return x * 2
        return x * 3


@pytest.fixture
def target(monkeypatch):
    """Register a target for the test; return the function that does it."""
    monkeypatch.setattr(names, "_registered", {})
    return lambda made: register_target("mine", made) or "mine"


@pytest.mark.parametrize("mode", MODES)
def test_eager_is_called_and_exported_in_the_mode_of_the_caller(mode, monkeypatch):
    modes, linear = set(), nn.functional.linear

    def asking(*args):
        modes.add(GradMode.current())
        return linear(*args)

    monkeypatch.setattr(nn.functional, "linear", asking)
    with mode():
        verdict = check_export(nn.Linear(4, 4), X, target="trace", max_examples=3)
        # Eager is also tried in the other modes without gradients, as the function asks for them.
        assert GradMode.current() in modes
        assert modes <= {GradMode.current(), GradMode.NO_GRAD, GradMode.INFERENCE}
    assert verdict.status == "passed", verdict


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("made", ["outside", "inside"])
def test_state_is_compared_in_every_mode(mode, made):
    """Tensors made in inference mode do not count what is written to them."""
    net = Counts().eval()
    with mode():
        net = Counts().eval() if made == "inside" else net
        verdict = check_export(net, X, target="script", max_examples=3)
    assert verdict.status == "passed", verdict


class RefusesInference(Trace):
    def export(self, module, example, spec, **options):
        if torch.is_inference_mode_enabled():
            raise RuntimeError("not in inference mode")
        return super().export(module, example, spec, **options)


class RefusesAll(Script):
    def export(self, module, example, spec, **options):
        raise RuntimeError(f"not {GradMode.current().value}")


def test_an_exporter_that_refuses_inference_mode_exports_without_gradients(target):
    name = target(RefusesInference())
    with torch.inference_mode():
        verdict = check_export(Asks(), X, target=name, max_examples=3)
    assert verdict.status == "passed", verdict
    assert NOT_IN_INFERENCE_MODE in verdict.notes
    verdict = check_export(Asks(), X, target=name, max_examples=3)
    assert NOT_IN_INFERENCE_MODE not in verdict.notes


def test_a_refusal_in_every_mode_is_the_one_without_gradients(target):
    name = target(RefusesAll())
    with torch.inference_mode():
        verdict = check_export(Asks(), X, target=name)
    assert verdict.failure == "ExportRefused"
    assert "under torch.no_grad()" in verdict.reason
    assert NOT_IN_INFERENCE_MODE not in verdict.notes


class Forces(nn.Module):
    def forward(self, x):
        x = x.detach().requires_grad_(True)
        forces = torch.autograd.grad([(x * x).sum()], [x])[0]
        assert forces is not None
        return forces


def test_an_artifact_runs_with_gradients_where_eager_cannot_do_without():
    verdict = check_export(Forces(), X, target="script", max_examples=3, isolate=True)
    assert verdict.status == "passed", verdict
    assert any("the artifact runs with gradients too" in note for note in verdict.notes)


def test_nothing_runs_under_the_callers_autocast_and_that_is_said():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        verdict = check_export(nn.Linear(4, 4), X, target="script", max_examples=3)
        assert torch.is_autocast_enabled("cpu")
    assert verdict.status == "passed", verdict
    assert verdict.cautions == (WITHOUT_AUTOCAST,)


class Numpy(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * float(self.weight.numpy().sum())


def test_eager_that_raises_with_gradients_alone_has_a_remedy():
    verdict = check_export(Numpy(), X, target="trace", max_examples=3)
    assert verdict.failure == "ExportRefused"
    (cause,) = verdict.diagnosis.causes
    assert cause.remedy == "export under torch.no_grad(), and make the test's call so"
    verdict = check_export(Numpy(), X, target="trace", max_examples=3, mode="train")
    assert verdict.failure == "SpecError"
    assert verdict.details == (RETURNS_WITHOUT_GRADIENTS,)
    with torch.no_grad():
        verdict = check_export(Numpy(), X, target="trace", max_examples=3)
    assert verdict.status == "passed", verdict


# -- files in another precision --------------------------------------------------------------------


class Deep(nn.Module):
    """Twelve layers, whose errors add up; ``scale`` reaches beyond the largest float16."""

    def __init__(self, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(32, 32), nn.GELU()) for _ in range(12))
        )
        self.scale = scale

    def forward(self, x):
        return self.layers(x).sum(-1) + (x * self.scale).square().mean(-1) / self.scale**2


class InPrecision:
    """A target whose artifact computes in another float type, as its facts say."""

    traits = TargetTraits()

    def __init__(self, precision, change=lambda _: None):
        self.precision, self.change = precision, change

    def unavailable(self, device):
        return None

    def export(self, module, example, spec, **options):
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float16
        low = module.to(dtype)
        self.change(low)

        def run(x):
            return low(x.to(dtype)).to(x.dtype)

        facts = ProgramFacts(precision=self.precision)
        return DirectArtifact(program=low, module=None, run=run, facts=facts)


def shifted(module):
    with torch.no_grad():
        module.layers[-1][0].bias += 0.05


@pytest.mark.parametrize(
    ("precision", "change", "scale", "failure"),
    [
        ("float16", None, 1.0, None),
        pytest.param("bfloat16", None, 1.0, None, marks=slow),
        ("float16", shifted, 1.0, "OutputsDiffer"),
        pytest.param("bfloat16", shifted, 1.0, "OutputsDiffer", marks=slow),
        ("float16", None, 400.0, "OutputsDiffer"),  # overflows
        ("float12", None, 1.0, "ExportRefused"),
        ("int7", None, 1.0, "ExportRefused"),
    ],
)
def test_a_file_in_another_precision_may_be_as_far_off_as_eager_in_it(
    target, precision, change, scale, failure
):
    made = InPrecision(precision, change or (lambda _: None))
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    verdict = check_export(
        Deep(scale), (x,), target=target(made), checks=("parity",), diagnose=False, max_examples=3
    )
    assert verdict.failure == failure, verdict
    note = f"the file computes in {precision}: as far off as eager is in it is no failure"
    assert (note in verdict.notes) == (failure != "ExportRefused")
    if failure is None:
        assert verdict.max_error > 1e-5  # beyond the tolerance of float32


# -- files with state of their own -----------------------------------------------------------------


class File:
    """What a runtime has loaded: it counts its calls, and knows no module."""

    module, baked, native_loops, facts = None, (), False, ProgramFacts()

    def __init__(self, step):
        self.program, self.step, self.calls = self, step, 0

    def __call__(self, x):
        self.calls += self.step
        return x * self.calls

    def save(self, directory):
        raise NotImplementedError

    def pack_inputs(self, call):
        return call

    def unpack_outputs(self, value):
        return value


class Anew(File):
    def fresh(self):
        return Anew(self.step)


class Files:
    traits = TargetTraits()

    def __init__(self, make):
        self.make = make

    def unavailable(self, device):
        return None

    def export(self, module, example, spec, **options):
        return self.make()


@pytest.mark.parametrize(
    ("make", "failure"),
    [
        (lambda: Anew(1), None),
        (lambda: Anew(0), "OutputsDiffer"),
        (lambda: File(1), "OutputsDiffer"),
    ],
)
def test_a_file_with_state_of_its_own_starts_anew_if_it_can(target, make, failure):
    checks = ("parity", "state")
    verdict = check_export(Counts(), X, target=target(Files(make)), checks=checks)
    assert verdict.failure == failure, verdict
