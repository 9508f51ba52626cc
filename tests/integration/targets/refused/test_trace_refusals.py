"""targets/refused/trace_refusals.py: what torch.jit.trace refuses, and that it takes what is advised."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets.refusal_rules import diagnosed
from pytest_torchexport.targets.refused.trace_refusals import RULES
from tests.refusing import refusal, silent


@dataclasses.dataclass
class Output:
    value: torch.Tensor


def module(function):
    """A module of which the function is ``forward``."""
    return type("Net", (nn.Module,), {"forward": lambda _, x: function(x)})().eval()


def trace(subject, x, **options):
    with quiet("cpu"), suppress_output(), torch.no_grad():
        return torch.jit.trace(subject, (x,), **{"check_trace": False, "strict": False, **options})


def refused(subject, **options):
    return refusal(lambda: trace(subject, torch.rand(3, 3), **options))


def cause_of(subject, **options):
    (cause,) = diagnosed(refused(subject, **options).error, "trace").causes
    return cause


def nothing(x):
    x.abs()


def compiled(x):
    return torch.compile(torch.relu, backend="eager")(x)


def cond(x):
    return torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: -v, (x,))


def scripted(x):
    return torch.jit.script(nn.ReLU())(x)


def threaded(x):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.relu, x).result()


class Held(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(3, 3)]

    def forward(self, x):
        return self.layers[0](x)


class Forces(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            energy = self.layer(x).tanh().sum()
            return torch.autograd.grad([energy], [x])[0]


class Counting(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


ROWS = [
    (Output, "an object of Output"),
    (lambda x: {"a": x, "b": [x]}, "a dict of Tensor and List[Tensor]"),
    (lambda x: [x, (x, x)], "a list of Tensor and Tuple[Tensor, Tensor]"),
    (lambda x: (x, []), "an empty list"),
    (lambda x: {1: x}, "whose keys are no strings"),
    (lambda x: (x, 3), "no tensor: a number"),
    (nothing, "returns nothing"),
    (compiled, "calls torch.compile"),
    (cond, "no torch.cond"),
    (scripted, "a TorchScript module (ReLU)"),
    (lambda x: x * round(x.shape[0] / 2), "Python's round"),
    (lambda x: x * ((x.shape[0] > 2) ^ True), "TorchScript has no __xor__ of Tensor, bool"),
    (threaded, "not made by operations that the trace sees"),
]


@pytest.mark.parametrize(("forward", "words"), ROWS)
def test_a_refusal_has_a_cause_and_a_remedy(forward, words):
    cause = cause_of(module(forward))
    assert words in cause.text
    assert cause.remedy


class Returns(nn.Module):
    def forward(self, x):
        def inner(y):
            return y

        return inner(x), "a"  # here


class ReturnsTwice(nn.Module):
    def forward(self, x):
        if x.dim() == 1:
            return x
        return x, "a"


def test_of_an_output_the_only_return_is_named():
    for subject, place in ((Returns(), ['return inner(x), "a"  # here']), (ReturnsTwice(), [])):
        with pytest.raises(Exception) as caught:  # torch has many classes
            trace(subject, torch.rand(3, 3))
        causes = diagnosed(caught.value, "trace", called=subject).causes
        assert [cause.where.text for cause in causes if cause.where] == place


def test_a_parameter_that_is_not_registered_is_told():
    cause = cause_of(Held())
    assert "requires_grad" in cause.text
    assert "nn.ModuleList" in cause.remedy
    assert cause.where.text == "return self.layers[0](x)"


class Function(torch.autograd.Function):
    @staticmethod
    def forward(_, x, weights):
        return x @ (weights.weight if isinstance(weights, nn.Module) else weights)

    @staticmethod
    def backward(_, gradient):
        return gradient, None


class OfAFunction(nn.Module):
    """Gives an autograd function its weights: in their module, or themselves."""

    def __init__(self, given):
        super().__init__()
        self.inner = nn.Linear(3, 3, bias=False)
        self.given = given

    def forward(self, x):
        return Function.apply(x, self.given(self.inner))


def test_a_function_of_autograd_that_is_given_a_module_is_named():
    cause = cause_of(OfAFunction(lambda inner: inner))
    assert (cause.kind, cause.where.text) == (
        "unsupported construct",
        "return Function.apply(x, self.given(self.inner))",
    )
    assert "no arguments of apply()" in cause.text
    trace(OfAFunction(lambda inner: inner.weight), torch.rand(3, 3))


def test_gradients_inside_forward_are_told_from_parameters():
    assert cause_of(Forces()).text == "forward computes gradients, which a trace does not record"


def test_a_dict_is_taken_without_strict():
    subject = module(lambda x: {"a": x * 2})
    assert "strict" in cause_of(subject, strict=True).remedy
    trace(subject, torch.rand(3, 3))


def test_torchs_own_check_of_a_trace_is_explained():
    assert "from call to call" in cause_of(Counting(), check_trace=True).remedy


def test_every_rule_is_shown():
    shown = [refused(module(forward)) for forward, _ in ROWS]
    of_a_function = refused(OfAFunction(lambda inner: inner))
    shown += [of_a_function, refused(Held()), refused(Forces())]
    shown += [refused(Counting(), check_trace=True)]
    shown += [refused(module(lambda x: {"a": x}), strict=True)]
    assert silent(RULES, shown) == []
