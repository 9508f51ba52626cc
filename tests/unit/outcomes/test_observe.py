"""outcomes/observe.py: what a callable did, without a trace of it left behind."""

# ruff: noqa: NPY002  # the legacy global stream is what a user's forward draws from

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch
from torch import nn

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.limits import TimeLimitExceeded, interrupted_after
from pytest_torchexport.outcomes.observe import (
    Outcomes,
    Raised,
    Returned,
    State,
    TimedOut,
    observe,
    seed_everything,
)
from pytest_torchexport.outcomes.torch_state import quiet


def returned(function, *args, seed=0, **kwargs):
    outcome = observe(function, Call(args, kwargs), seed=seed)
    assert isinstance(outcome, Returned), outcome
    return outcome


# -- clones ----------------------------------------------------------------------------------------


def test_the_callers_tensors_are_never_touched():
    x, state = torch.ones(2), [torch.ones(2)]

    def function(x, state):
        x.zero_()
        state.append(state[0].zero_())

    outcome = returned(function, x, state)
    assert x.tolist() == [1, 1]
    assert [item.tolist() for item in state] == [[1, 1]]
    assert outcome.inputs.args[0].tolist() == [0, 0]


def test_calls_run_without_grad_and_return_clones():
    parameter, buffer = nn.Parameter(torch.ones(1)), torch.zeros(2)
    assert not returned(lambda: parameter * 2).value.requires_grad
    assert torch.is_grad_enabled()
    first = returned(lambda: {"b": buffer.add_(1)})
    returned(lambda: buffer.add_(1))
    assert first.value["b"].tolist() == [1, 1]


# -- seeding ---------------------------------------------------------------------------------------


def rolls():
    return torch.rand(2), random.random(), float(np.random.rand())


def test_torch_numpy_and_random_are_seeded_alike_before_each_call():
    first, second = returned(rolls, seed=5).value, returned(rolls, seed=5).value
    assert torch.equal(first[0], second[0])
    assert first[1:] == second[1:]
    other = returned(rolls, seed=6).value
    assert not torch.equal(first[0], other[0])
    assert (first[1] != other[1], first[2] != other[2]) == (True, True)
    seed_everything(2**63 - 1)


# -- raising and hanging ---------------------------------------------------------------------------


class Broken(nn.Module):
    def forward(self, x):
        return x.view(7, 7)  # the line to be shown


def test_an_exception_is_told_by_type_message_and_the_users_line():
    outcome = observe(Broken(), Call((torch.ones(3),)), seed=0)
    assert isinstance(outcome, Raised)
    assert outcome.type == "RuntimeError"
    assert "shape" in outcome.message
    assert "test_observe.py" in str(outcome.where)
    assert outcome.where.text.endswith("return x.view(7, 7)  # the line to be shown")
    assert str(outcome).startswith("RuntimeError: ")


def raises(error):
    raise error


@pytest.mark.parametrize(
    ("error", "text"), [(KeyError(), "KeyError"), (SystemExit(3), "SystemExit: 3")]
)
def test_whatever_is_raised_is_an_outcome(error, text):
    assert str(observe(raises, Call((error,)), seed=0)) == text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), pytest.skip.Exception("not today")])
def test_what_ends_the_test_passes_through(error):
    with pytest.raises(type(error)):
        observe(raises, Call((error,)), seed=0)


def test_a_runner_may_run_it_elsewhere_and_may_say_that_time_is_up():
    def run(go):
        raise TimeLimitExceeded(str(go()))

    assert isinstance(observe(lambda: 1, Call(), seed=0, run=run), TimedOut)


# -- global state ----------------------------------------------------------------------------------


def rude(error=None):
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(True)
    torch.set_num_threads(2)
    torch.set_default_device("meta")
    if error:
        raise error


def test_global_settings_of_torch_are_put_back():
    threads = torch.get_num_threads()
    settings = {"default dtype", "number of threads", "default device"}
    with quiet("cpu"):
        assert settings <= set(returned(rude).changed)
        assert isinstance(observe(rude, Call((ValueError("late"),)), seed=0), Raised)
        assert torch.get_default_dtype() == torch.float32
        assert torch.get_num_threads() == threads
        assert torch.get_default_device() == torch.device("cpu")


# -- state -----------------------------------------------------------------------------------------


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", None)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x):
        return x


def snapshot(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(module, before):
    after = module.state_dict()
    return list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)


def test_every_written_tensor_is_put_back_and_a_buffer_of_forwards_goes_again():
    module = Counter()
    before, last = snapshot(module), module.norm.running_mean
    state = State(module, thorough=True)
    with torch.no_grad():
        module.count.add_(1)
        module.last = torch.ones(1)
        module.norm(torch.randn(4, 2))  # its kernel moves no version counter
        module.norm.running_mean = torch.ones(2)
        module.norm.weight.mul_(2)
        module.weight.data.add_(1)
        module.register_buffer("late", torch.ones(1))
    assert state.restore()
    assert same(module, before), snapshot(module)
    assert module.norm.running_mean is last
    assert not state.restore()


def test_a_quick_look_says_what_it_missed():
    module = Counter()
    state = State(module)
    module.norm(torch.randn(4, 2))
    state.restore()
    assert state.stale()
    with torch.no_grad():
        module.weight.add_(1)
    assert state.restore()
    assert state.lost  # parameters are copied only for a thorough look


# -- what a call leaves of its arguments -----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda batch: batch.update(y=batch["x"] * 2), "inputs[0][0]['y']"),
        (lambda batch: batch.pop("x"), "inputs[0][0]['x']"),
    ],
)
def test_a_container_is_left_as_it_was_given_and_what_changed_is_named(change, path):
    found = observe(change, Call(({"x": torch.ones(2)},)), seed=0)
    assert found.rebuilt == (path,)
    assert list(found.inputs.args[0]) == ["x"]
    assert found.inputs.args[0]["x"].tolist() == [1, 1]


def test_what_was_written_into_a_given_tensor_is_seen_in_a_changed_container_too():
    def both(states):
        states[0].zero_()
        states.append(states[0] + 1)

    found = observe(both, Call(([torch.ones(2)],)), seed=0)
    assert found.rebuilt == ("inputs[0][0][1]",)
    assert [tensor.tolist() for tensor in found.inputs.args[0]] == [[0, 0]]


def test_the_interrupt_of_a_limit_that_becomes_another_exception_is_still_one():
    """TorchScript makes a RuntimeError of it while an operator in Python runs."""

    def function():
        try:
            time.sleep(60)
        except KeyboardInterrupt as error:
            raise RuntimeError("of TorchScript") from error

    with pytest.raises(TimeLimitExceeded), interrupted_after(0.05):
        observe(function, Call(()), seed=0)


def test_a_large_buffer_can_be_resized_while_it_is_kept():
    net = nn.Module()
    net.register_buffer("mean", torch.zeros(2**19))
    state = State(net)
    net.mean.resize_(2**20).fill_(1)
    assert state.restore()
    assert net.mean.shape == (2**19,)
    assert not net.mean.any()


# -- outcomes that are kept ------------------------------------------------------------------------

X = torch.arange(6.0).reshape(2, 3)


def runs_of(*calls, make=lambda call: Returned(X, call.clone())):
    """How often calls were made, and what was returned for them, from one memory."""
    kept, made = Outcomes(), []

    def run(call):
        made.append(call)
        return make(call)

    found = [kept.once(call, 0, lambda call=call: run(call)) for call in calls]
    return len(made), found


class Stateful:
    def __init__(self):
        self.seen = 0


@pytest.mark.parametrize(
    ("one", "other", "runs"),
    [
        (Call((X,)), Call((X.clone(),)), 1),
        (Call((X,), {"scale": 2.0}), Call((X.clone(),), {"scale": 2.0}), 1),
        (Call(([X, None],)), Call(([X.clone(), None],)), 1),
        (Call((X, X)), Call((X, X.clone())), 2),
        (Call((X, X)), Call((X, X[:])), 2),
        (Call((X,)), Call((X + 1,)), 2),
        (Call((X,)), Call((X.double(),)), 2),
        (Call((X,)), Call((X.t().contiguous().t(),)), 2),
        (Call((X,)), Call((X.clone().requires_grad_(),)), 2),
        (Call((X,), {"scale": 2.0}), Call((X,), {"scale": 2}), 2),
        (Call(([X],)), Call(((X,),)), 2),
        (Call((X,), {"a": 0.0}), Call((X,), {"a": -0.0}), 2),
        (Call((X, Stateful())), Call((X, Stateful())), 2),
        (Call((X.to_sparse(),)), Call((X.to_sparse(),)), 2),
    ],
)
def test_calls_that_no_forward_can_tell_apart_are_made_once(one, other, runs):
    count, (first, second) = runs_of(one, other)
    assert count == runs
    assert torch.equal(first.value, second.value)


def test_a_kept_outcome_has_the_inputs_as_the_call_left_them():
    written = Returned(X, Call((X + 1,)))
    count, (_, second) = runs_of(Call((X,)), Call((X.clone(),)), make=lambda _: written)
    assert (count, second) == (1, written)
    again = Call((X.clone(),))
    _, (_, second) = runs_of(Call((X,)), again)
    assert second.inputs is again


@pytest.mark.parametrize(("outcome", "runs"), [(Raised("E", ""), 1), (TimedOut(1.0), 2)])
def test_an_exception_is_kept_and_a_timeout_is_not(outcome, runs):
    assert runs_of(Call((X,)), Call((X,)), make=lambda _: outcome) == (runs, [outcome, outcome])


def test_no_more_bytes_are_kept_than_there_is_room_for(monkeypatch):
    # 24 bytes are returned by each call, of which the inputs stay as they are.
    monkeypatch.setattr("pytest_torchexport.outcomes.observe.KEPT", 2 * X.nbytes)
    calls = [Call((X + number,)) for number in range(3)]
    assert runs_of(*calls, *calls[:2])[0] == 3
    assert runs_of(*calls, *calls)[0] == 4


def test_what_is_forgotten_is_made_anew():
    kept = Outcomes()
    kept.once(Call((X,)), 0, lambda: Raised("E", "first"))
    kept.forget()
    assert kept.once(Call((X,)), 0, lambda: Raised("E", "second")).message == "second"
