"""diagnosis/mixed_program.py: values of another run change what a program returns, and no rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport.diagnosis.mixed_program import MixedProgram, with_strides

X = torch.arange(24.0).view(2, 3, 4)


def strided(*strides):
    """Return zeros of the shape of X with these strides."""
    return torch.zeros(100).as_strided(X.shape, strides)


@pytest.mark.parametrize(
    ("value", "strides"),
    [
        (X, (1, 8, 2)),
        (X, (24, 8, 1)),
        (X[:, :1].expand(2, 3, 4), (4, 0, 1)),
        (X * torch.nan, (1, 8, 2)),
        (X[:, :0], (1, 8, 2)),
        (X.int(), (1, 8, 2)),
    ],
    ids=["transposed", "a part", "expanded", "nan", "empty", "integers"],
)
def test_a_value_gets_the_strides_and_keeps_its_numbers(value, strides):
    found = with_strides(value.contiguous(), strides)
    assert found.stride() == strides
    torch.testing.assert_close(found, value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "strides", [(4, 0, 1), (1, 1, 1), (1, 2)], ids=["expanded", "windows", "dims"]
)
def test_a_value_that_strides_cannot_hold_stays_as_it_is(strides):
    assert with_strides(X, strides) is X


class Layouts(nn.Module):
    def forward(self, x):
        y = x.transpose(1, 2)
        z = y * 2
        return z.exp()


@pytest.fixture(scope="module")
def program():
    return torch.export.export(Layouts(), (X,))


def test_an_operator_gets_its_operand_in_torchs_own_layout(program):
    names = [n.name for n in program.graph.nodes if n.op == "call_function"]
    own = X.transpose(1, 2)
    values = dict(zip(names, (own.contiguous(), (own * 2).contiguous()), strict=False))
    mixed = MixedProgram(program, values)
    right = (own * 2).exp()
    seen = []

    def is_right():
        found = mixed(X)
        seen.append(found.stride())
        return torch.equal(found, right)

    assert mixed.first_wrong(is_right) is None
    assert seen == [right.stride()] * 2


def test_the_first_node_with_another_value_is_found(program):
    names = [n.name for n in program.graph.nodes if n.op == "call_function"]
    own = X.transpose(1, 2)
    mixed = MixedProgram(program, dict(zip(names, (own, own + 2, (own + 2).exp()), strict=True)))
    right = (own * 2).exp()
    assert mixed.first_wrong(lambda: torch.equal(mixed(X), right)).name == names[1]


def test_a_program_that_is_wrong_itself_blames_no_node(program):
    names = [n.name for n in program.graph.nodes if n.op == "call_function"]
    mixed = MixedProgram(program, {names[0]: X.transpose(1, 2) + 1})
    assert mixed.first_wrong(lambda: False) is None


class Chain(nn.Module):
    def forward(self, x):
        for _ in range(30):
            x = x.sin() + 1
        return x


def test_the_node_with_a_value_of_its_own_is_tried_first():
    program = torch.export.export(Chain(), (X,))
    names = [n.name for n in program.graph.nodes if n.op == "call_function"]
    values, x = {}, X
    for name in names:
        x = x.sin() if name.startswith("sin") else x + 1
        x = x + 1 if name == "sin_27" else x
        values[name] = x
    mixed, right, runs = MixedProgram(program, values), Chain()(X), []

    def is_right():
        runs.append(mixed.taken)
        return torch.allclose(mixed(X), right)

    assert mixed.first_wrong(is_right).name == "sin_27"
    assert len(runs) == 4  # with no value, with all, before the node, with the node


class Activated(nn.Module):
    def forward(self, x):
        return (x + 1).relu() @ torch.eye(4)


def test_a_node_whose_value_has_another_name_is_told_from_the_one_behind_it():
    program = torch.export.export(Activated(), (X - 12,))
    add, relu, _, matmul = (n for n in program.graph.nodes if n.op == "call_function")
    own = X - 11
    mixed = MixedProgram(program, {add.name: own, matmul.name: own.tanh() @ torch.eye(4)})
    first = mixed.first_wrong(lambda: torch.equal(mixed(X - 12), own.relu()))
    assert first.name == matmul.name

    def run():
        return mixed(X - 12)

    assert mixed.given_by(first, run, {relu.name: own}) is None
    assert mixed.given_by(first, run, {relu.name: own.tanh()}).name == relu.name
