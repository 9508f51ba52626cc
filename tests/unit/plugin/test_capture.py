"""plugin/capture.py: what a test body called, as it was before it was called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport.outcomes.torch_state import GradMode
from pytest_torchexport.plugin import capture
from pytest_torchexport.plugin.capture import (
    MAX_CALLS,
    MAX_CALLS_OF_ONE_SHAPE,
    MAX_SHAPES,
    MAX_SUBJECTS,
    CallRecorder,
)
from pytest_torchexport.results.failures import SpecError


class Inner(nn.Module):
    def forward(self, x, scale=1.0):
        return x * scale


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return self.inner(x)


class Two(nn.Module):
    def forward(self, a, b):
        return a + b


def recorded(body):
    with CallRecorder() as recorder:
        body()
    return recorder.recordings


def test_the_module_is_a_copy_from_before_its_first_call():
    net = Outer()
    (recording,) = recorded(lambda: (net(torch.ones(2)), net(torch.ones(3))))
    assert net.count.item() == 2
    assert recording.module is not net
    assert recording.module.count.item() == 0


def test_keywords_in_another_order_are_no_other_calls():
    net, x, y = Two(), torch.ones(2), torch.ones(3)
    (recording,) = recorded(lambda: (net(a=x, b=y[:1]), net(b=y[:1], a=y)))
    assert recording.sizes == {((2,), (1,)), ((3,), (1,))}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_grad_mode_of_the_first_call_is_recorded_and_nothing_is_made_in_inference_mode(mode):
    with mode():
        expected = GradMode.current()
        net, x = Outer(), torch.ones(2)
        (recording,) = recorded(lambda: net(x))
    assert recording.grad_mode is expected
    assert not recording.calls[0].args[0].is_inference()
    assert not recording.module.count.is_inference()


def test_a_call_under_autocast_is_told():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (recording,) = recorded(lambda: Inner()(torch.ones(2)))
    assert recording.autocast


def test_a_few_calls_of_each_shape_and_never_too_many_shapes(monkeypatch):
    monkeypatch.setattr(capture, "MAX_BYTES", 0)  # as if they were large
    net = Inner()

    def body():
        for size in (*[2] * 5, *range(1, 3 * MAX_SHAPES)):
            net(torch.ones(size))

    (recording,) = recorded(body)
    sizes = [len(call.args[0]) for call in recording.calls]
    assert sizes[:4] == [*[2] * MAX_CALLS_OF_ONE_SHAPE, 1]
    assert len(set(sizes)) == MAX_SHAPES + 1
    assert sizes[-1] == 3 * MAX_SHAPES - 1  # the largest size of an axis
    assert recording.left_out == 5 + 3 * MAX_SHAPES - 1 - len(sizes)


def test_small_calls_are_kept_up_to_their_number():
    net = Inner()
    (recording,) = recorded(lambda: [net(torch.ones(2)) for _ in range(MAX_CALLS + 7)])
    assert (len(recording.calls), recording.left_out) == (MAX_CALLS, 7)


def test_calls_of_another_structure_or_python_value_are_recorded_apart():
    net = Inner()

    def body():
        net(torch.ones(2))
        net(torch.ones(2), scale=2.0)
        net(torch.ones(2), scale=3.0)
        net(torch.ones(2, 2))
        net(torch.ones(2, dtype=torch.float64))

    assert len(recorded(body)) == 5


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_has_no_shape_and_is_recorded():
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    (recording,) = recorded(lambda: nn.Identity()(nested))
    assert len(recording.calls) == 1


def test_a_compiled_module_is_recorded_as_what_it_wraps():
    net = Inner()
    compiled = torch.compile(net, backend="eager")
    (recording,) = recorded(lambda: compiled(torch.ones(2)))
    assert type(recording.module) is Inner
    assert recording.wrappers == ("torch.compile",)


def test_two_instances_are_two_recordings_and_there_is_a_limit():
    body = lambda: [Inner()(torch.ones(2)) for _ in range(MAX_SUBJECTS + 3)]  # noqa: E731
    assert len(recorded(body)) == MAX_SUBJECTS


def test_the_call_of_modules_is_put_back_also_if_the_body_raises():
    original = nn.Module.__call__

    def body():
        assert nn.Module.__call__ is not original
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        recorded(body)
    assert nn.Module.__call__ is original


class Uncopyable(Inner):
    def __deepcopy__(self, memo):
        raise TypeError("mine alone")


def test_a_module_that_cannot_be_copied_is_a_problem_and_the_body_goes_on():
    (recording,) = recorded(lambda: Uncopyable()(torch.ones(2)))
    assert isinstance(recording.problem, SpecError)
    assert "mine alone" in str(recording.problem)


def test_a_module_whose_parts_were_exchanged_is_another_one():
    """As quantizing in place does: another part under the same name."""
    module = nn.Sequential(nn.Linear(2, 2))

    def body():
        module(torch.ones(1, 2))
        module[0] = nn.Sequential(module[0], nn.ReLU())
        module(torch.ones(1, 2))

    first, second = recorded(body)
    assert type(first.module[0]) is nn.Linear
    assert type(second.module[0]) is nn.Sequential


def functional(net, scale):
    parameters = {name: value * scale for name, value in net.named_parameters()}
    return torch.func.functional_call(net, parameters, (torch.ones(2, 3),))


TRANSFORMED = {
    "functional_call with computed parameters": lambda net: functional(net, 2.0),
    "grad": lambda net: torch.func.grad(lambda x: net(x).sum())(torch.ones(2, 3)),
    "vmap": lambda net: torch.func.vmap(net)(torch.ones(2, 3)),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_a_call_inside_a_transform_is_left_out_and_one_outside_is_recorded(name):
    net = nn.Linear(3, 2)
    with CallRecorder() as recorder:
        TRANSFORMED[name](net)
        assert recorder.recordings == []
        net(torch.ones(2, 3))
    assert list(recorder.uncopied) == ["Linear"]
    (recording,) = recorder.recordings
    assert recording.problem is None
    torch.testing.assert_close(recording.module.weight, net.weight)


# -- what is left out, and what a body calls instead -----------------------------------------------


def test_calls_that_raised_losses_and_what_torch_calls_itself_are_left_out():
    net = nn.Linear(3, 2)

    def body():
        with pytest.raises(RuntimeError):
            net(torch.ones(7))
        nn.MSELoss()(torch.ones(2), torch.ones(2))
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
        torch.ao.quantization.MinMaxObserver()(torch.ones(2))
        net(torch.ones(1, 3))

    (recording,) = recorded(body)
    assert [tuple(call.args[0].shape) for call in recording.calls] == [(1, 3)]


class Encodes(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.head = nn.Linear(self.linear(torch.zeros(1, 3)).shape[1], 3)

    def encode(self, x):
        return -self.linear(x) if x.mean() > 0 else self.linear(x)

    def twice(self, x):
        return self(self(x))

    def forward(self, x):
        return self.linear(x)


X = torch.arange(6.0).reshape(2, 3)


def build(net, x):
    return net(x)  # of a helper


def test_the_tests_line_of_the_first_call_is_recorded():
    def body():
        build(Inner(), torch.ones(2))  # of the body

    for known, said in ((body, "# of the body"), (None, "# of a helper")):
        with CallRecorder(known) as recorder:
            body()
        (recording,) = recorder.recordings
        assert recording.line.text.endswith(said)


def test_a_function_of_that_name_is_no_forward_of_a_module():
    def forward(net, x):
        return net(x)

    (recording,) = recorded(lambda: forward(Inner(), X))
    assert recording.problem is None


def test_what_the_test_called_itself_is_inside_nothing():
    for body in (lambda: Encodes().twice(X), lambda: Encodes()(X), lambda: nn.Linear(3, 2)(X)):
        assert {recording.caller for recording in recorded(body)} == {None}
