"""outcomes/tape.py: the operators of a run, their arguments, results, and where they come from."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes import tape
from pytest_torchexport.outcomes.observe import Raised, Returned
from pytest_torchexport.outcomes.tape import FromOutside, record

X = torch.arange(6.0).reshape(2, 3)


def recorded(function, *args, module=None):
    return record(function, Call(args), seed=0, module=module)


def names(found):
    return [step.name for step in found.steps]


def test_each_operator_has_its_arguments_by_name_its_numbers_and_the_users_line():
    found = recorded(lambda x: x.sum(1) - 2, X)
    total, less = found.steps
    assert (total.operator_name, less.operator_name) == ("aten.sum", "aten.sub")
    assert total.arguments["dim"] == [1]
    assert (less.arguments["other"], less.arguments["alpha"]) == (2, 1)
    assert total.results[0].numbers.tolist() == [3.0, 12.0]
    assert "x.sum(1) - 2" in str(less.where)
    assert found.complete


def test_a_tensor_comes_from_the_step_that_made_it_or_from_outside():
    found = recorded(lambda x: (x + 1).relu() * x, X)
    add, relu, mul = found.steps
    assert isinstance(add.arguments["self"], FromOutside)
    assert add.arguments["self"].name == "inputs[0][0]"
    assert (relu.sources, mul.sources) == ({0}, {1})
    assert found.last["output"].step == 2


def test_a_write_to_a_part_of_a_tensor_is_a_source_of_the_whole():
    def written(x):
        y = x * 2
        y[0].add_(1)
        return y.sum()

    found = recorded(written, X)
    assert names(found) == ["mul", "select", "add", "sum"]
    assert found.steps[3].sources == {2}


def test_a_view_of_a_parameter_is_no_source_of_the_parameter():
    layer = nn.Linear(3, 3)
    found = recorded(lambda x: layer(x) * layer.weight, torch.ones(3, 3), module=layer)
    weight = found.steps[-1].arguments["other"]
    assert isinstance(weight, FromOutside)
    assert weight.name == "parameter weight"


def test_a_tensor_made_of_numbers_has_the_line_that_made_it():
    found = recorded(lambda x: x * torch.tensor([1.0, 2.0, 3.0]), X)
    other = found.steps[0].arguments["other"]
    assert isinstance(other, FromOutside)
    assert "torch.tensor([1.0" in str(other.where)


def test_steps_have_the_path_and_class_of_their_module():
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    assert [step.module for step in recorded(net, X, module=net).steps] == [
        *["0 (Linear)"] * 2,
        "1 (ReLU)",
    ]


def test_the_step_that_raised_is_the_last():
    found = recorded(lambda x: (x + 1).view(5), X)
    assert isinstance(found.outcome, Raised)
    assert (found.raised, found.steps[1].name, found.steps[1].results) == (1, "view", ())


def test_what_does_not_fit_is_kept_as_a_sample(monkeypatch):
    monkeypatch.setattr(tape, "KEPT", 0)
    monkeypatch.setattr(tape, "SAMPLED", 3)
    result = recorded(lambda x: x + 1, X).steps[0].results[0]
    assert (result.whole, result.shape) == (False, (2, 3))
    assert result.numbers.tolist() == [1.0, 3.0, 5.0]


def test_the_numbers_that_python_reads_complex_ones_left_out():
    found = recorded(lambda x: x * x.sum().item(), X)
    assert [step.read for step in found.steps if step.read] == [(15.0,)]
    found = recorded(lambda x: x * x.sum().item(), X * 1j)
    assert isinstance(found.outcome, Returned)
    assert not any(step.read for step in found.steps)
