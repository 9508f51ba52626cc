"""diagnosis/first_difference.py: the operator that introduces a difference, of two recorded functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pytest_torchexport.diagnosis.first_difference import introduced
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.tape import record

X = torch.linspace(-2, 3, 12).reshape(3, 4)


def found(eager, artifact, *args, differing=("output",)):
    left, right = (record(side, Call(args or (X,)), seed=0) for side in (eager, artifact))
    return introduced(left, right, differing)


def seen(eager, artifact, **options):
    item = found(eager, artifact, **options).structural
    return item.kind, item.operator, item.eager, item.artifact


def test_another_number():
    item = found(lambda x: (x * 2).relu().sum(), lambda x: (x * 3).relu().sum())
    assert (item.structural.kind, item.structural.argument) == ("constant", "other")
    assert item.structural.numbers == (2.0, 3.0)
    assert item.place.operator == "aten.mul"
    assert "x * 2" in str(item.place.where)


def test_another_number_in_a_list_and_another_word():
    assert seen(lambda x: x.view(4, 3), lambda x: x.view(2, 6)) == (
        *("constant", "aten.view"),
        *("4", "2"),
    )
    assert seen(F.gelu, lambda x: F.gelu(x, approximate="tanh"))[2:] == ("none", "tanh")


def test_a_number_that_is_a_stored_tensor_in_the_artifact():
    kept = torch.tensor(3.0, dtype=torch.float64)
    assert seen(lambda x: x * 2, lambda x: x * kept)[2:] == ("2", "3")


def test_another_number_of_an_operator_that_stands_elsewhere():
    def first(x):
        count = torch.arange(4)
        return x.sum(1).cos() + count

    item = found(lambda x: x.sum(1).cos() + torch.arange(3), first)
    assert (item.structural.kind, item.structural.argument) == ("constant", "end")
    assert item.structural.numbers == (3.0, 4.0)


def test_the_line_that_read_a_number_from_a_tensor():
    def read(x):
        top = x.max().item()
        return x - top

    item = found(read, lambda x: x - 1.5)
    assert "x.max().item()" in str(item.structural.read_at)
    assert "return x - top" in str(item.structural.where)
    assert item.place.where == item.structural.read_at


def test_an_operator_that_is_missing_among_equal_blocks():
    def blocks(x, *, drop):
        for number in range(4):
            x = x @ torch.eye(4) + 1
            x = x if number == drop else x.sin()
        return x

    item = found(lambda x: blocks(x, drop=-1), lambda x: blocks(x, drop=2))
    assert (item.structural.kind, item.place.operator) == ("missing", "aten.sin")


def test_operators_that_are_extra_or_others():
    assert seen(lambda x: x @ x.t(), lambda x: (x.half() @ x.half().t()).float())[:2] == (
        *("extra", "aten._to_copy"),
    )
    assert seen(lambda x: x.log1p().sin(), lambda x: (x + 2).log().sin()) == (
        *("other", "aten.log1p"),
        *("aten.log1p", "aten.add, aten.log"),
    )


def test_a_result_that_the_artifact_has_stored():
    kept = torch.tensor([1.0, 0.0, 2.0, 3.0])
    item = found(lambda x: x + x.mean(0), lambda x: x + kept)
    assert (item.structural.kind, item.place.operator) == ("constant", "aten.mean")
    assert item.structural.artifact == "float32[4]"


def test_a_result_that_is_stored_with_the_right_numbers_is_not_blamed():
    kept = torch.arange(4) * 1.0
    item = found(lambda x: x + torch.arange(4) * 1.0 - 1, lambda x: x + kept - 2)
    assert (item.structural.kind, item.structural.numbers) == ("constant", (1.0, 2.0))


def test_another_parameter():
    left, right = nn.Linear(4, 2), nn.Linear(4, 2)
    assert seen(left, right)[0] == "stored"


def test_outputs_that_are_swapped():
    item = found(
        lambda x: (x.sin(), x.cos()),
        lambda x: (x.sin(), x.cos())[::-1],
        differing=("output[0]", "output[1]"),
    )
    assert (item.structural.kind, item.structural.eager) == ("other", "aten.sin")


def test_an_output_that_is_the_input_itself():
    assert seen(lambda x: x.clone() * 2, lambda x: x)[0] == "missing"


def test_another_kernel():
    """The artifact draws other numbers: the operator is the same, and its operands agree."""

    def drawn(x):
        torch.default_generator.manual_seed(7)
        return x + torch.rand(4)

    assert seen(lambda x: x + torch.rand(4), drawn)[0] == "same"


def test_an_operator_is_compared_with_the_one_of_its_shape():
    item = found(lambda x: torch.rand(4) + x, lambda x: (torch.rand(1), torch.rand(4) + x)[1])
    assert (item.structural.kind, item.place.operator) == ("same", "aten.rand")


def test_a_rewriting_that_gives_the_same_numbers_is_not_blamed():
    item = found(lambda x: (x * 2).sin() * 3, lambda x: (x + x).sin() * 4)
    assert item.structural.numbers == (3.0, 4.0)


def test_a_rewriting_that_only_rounds_is_not_blamed():
    item = found(lambda x: x.log1p().sin(), lambda x: (x + 1).log().sin().nan_to_num())
    assert (item.structural.kind, item.structural.artifact) == ("extra", "aten.nan_to_num")
    item = found(lambda x: (x / 3).sin() + 0.5, lambda x: (x * (1 / 3)).sin() + 0.6)
    assert item.structural.numbers == (0.5, 0.6)


def test_what_the_output_does_not_depend_on_is_not_blamed():
    def beside(x):
        return (x * 5).sum(), x * 3

    item = found(lambda x: ((x * 4).sum(), x * 2), beside, differing=("output[1]",))
    assert item.structural.numbers == (2.0, 3.0)


def test_the_operator_that_raises_in_the_artifact():
    size = 4
    item = found(lambda x: x.view(x.shape[0], -1), lambda x: x.view(size + 1, -1))
    assert (item.structural.kind, item.structural.numbers) == ("constant", (3.0, 5.0))


@pytest.mark.parametrize("before", [0, 3])
def test_the_operator_that_raises_has_its_twin_behind_what_only_eager_runs(before):
    def eager(x):
        for _ in range(before):
            bool(x.sum() < 9)
        return x.view(x.shape[0], -1) * 2

    item = found(eager, lambda x: x.view(5, -1) * 2)
    assert (item.structural.kind, item.structural.numbers) == ("constant", (3.0, 5.0))


def test_the_operator_that_raises_is_aligned_with_the_eager_steps_behind_its_twin():
    def eager(x):
        beside = (x.exp() @ x.sin().T).softmax(-1).tanh().sum()
        return x.relu().view(x.shape[0], -1) + beside

    item = found(eager, lambda x: x.relu().view(5, -1))
    assert (item.structural.kind, item.structural.numbers) == ("constant", (3.0, 5.0))


def test_the_operator_that_raises_has_its_twin_though_the_artifact_stores_an_operand():
    kept = torch.ones(1, 9)
    item = found(lambda x: x * torch.arange(4)[None], lambda x: x * kept)
    assert (item.structural.kind, item.structural.argument) == ("constant", "other")
    assert item.structural.eager == "aten.unsqueeze"


def test_the_operator_that_raises_has_its_twin_though_the_artifact_stores_most_of_an_index():
    def gather(x):
        table = torch.cat([x.sin(), x.cos()])
        index = (torch.arange(2, 0, -1).clone() * 1 + 0)[:, None]
        return table.gather(0, index.expand(2, 4))

    kept = torch.tensor([[9], [8]])

    def stored(x):
        table = torch.cat([x.sin(), x.cos()])
        return table.gather(0, kept.expand(2, 4))

    item = found(gather, stored)
    assert (item.structural.kind, item.structural.operator) == ("constant", "aten.unsqueeze")
    assert "torch.arange(2, 0, -1)" in str(item.structural.where)


def test_numbers_are_not_compared_of_an_operator_on_the_result_of_another():
    def swapped(x):
        left, right = x.sin(), x.cos()
        return left + right * 3

    def straight(x):
        left, right = x.sin(), x.cos()
        return left * 2 + right

    assert seen(straight, swapped)[0] != "constant"


def test_the_operator_that_raises_has_no_twin_on_other_operands():
    item = found(lambda x: (x.sum() < 9, x.exp().view(3, 4)), lambda x: x.view(5, -1))
    assert (item.structural.kind, item.place.operator) == ("extra", "aten.view")


@pytest.mark.parametrize(("value", "read"), [(1.0, False), (3.0, True)])
def test_a_truth_value_is_not_where_a_number_was_read(value, read):
    def eager(x):
        top = x[:1].max().item() if read else bool(x.max() > 0)
        return x + top if read else x + 1

    x = torch.full_like(X, value)
    item = found(eager, lambda x: x + 7, x)
    assert item.structural.numbers == (value, 7.0)
    assert (item.structural.read_at is not None) == read


def test_the_operator_that_raises_is_named_and_not_the_first_that_eager_has_not():
    item = found(lambda x: x.relu(), lambda x: x.exp().tanh().as_strided((9, 9), (9, 1)))
    assert item.structural.operator == item.place.operator == "aten.as_strided"
    assert item.structural.artifact.startswith("aten.exp, aten.tanh")


def test_the_operand_on_account_of_which_the_artifact_raises():
    kept = torch.zeros(2, 1)
    item = found(
        lambda x: torch.cat([x, torch.zeros(x.shape[0], 1)], 1), lambda x: torch.cat([x, kept], 1)
    )
    assert (item.structural.kind, item.place.operator) == ("constant", "aten.zeros")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_agree_with_themselves(number):
    item = found(lambda x: (x * number).abs() + 1, lambda x: (x * number).abs() + 1)
    assert item is None


def test_slices_of_everything_that_only_a_trace_has_do_not_shift_the_others():
    def two(x, end):
        return torch.cat([x[:, :end], x[:, end:]], 1)

    def traced(x, end):
        return torch.cat([x[:][:, :end], x[:][:, end:]], 1)

    item = found(lambda x: two(x, 2).sum(1), lambda x: traced(x, 3)[:, 1:].sum(1))
    assert (item.structural.operator, item.structural.argument) == ("aten.slice", "end")
    assert item.structural.numbers == (2.0, 3.0)
