"""eager/accepted.py: the batch that eager takes, its sizes, and calls with what it refuses left out."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from specs import shapes_of, spec_of
from torch import nn

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager import accepted
from pytest_torchexport.eager.accepted import find_batch, narrow_assumed
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.inputs.recipes import plain_recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.observe import observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.failures import SpecError


def X(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# -- sizes -----------------------------------------------------------------------------------------


def fours(x):
    if x.shape[0] % 4:
        raise ValueError("fours only")
    return x.reshape(x.shape[0] // 4, -1)


@pytest.mark.parametrize(
    ("forward", "sizes"),
    [
        (lambda x: x.unfold(0, 3, 1), range(3, 17)),
        (fours, range(4, 17, 4)),
        # One row is taken by broadcasting, and is no step.
        (lambda x: x + torch.ones(8, 3), range(8, 9)),
    ],
)
def test_an_assumed_dim_has_the_sizes_that_eager_takes(forward, sizes):
    notes = []
    spec = spec_of(forward, X(8, 3))
    found = narrow_assumed(spec, lambda call: observe(forward, call, seed=0), notes.append)
    left = found.dims["batch"].sizes if found.dims else range(8, 9)
    assert left == sizes
    assert notes[0].startswith("eager accepts ")


# -- the batch -------------------------------------------------------------------------------------


def found(forward, *args, module=None, **options):
    spec = spec_of(forward, *args, **options)
    return find_batch(spec, lambda call: observe(forward, call, seed=0), module)


def test_inputs_are_tied_if_eager_takes_a_batch_of_its_own_for_one():
    def towers(user, item):
        return user.sum(1), item.sum(1)

    assert found(towers, X(3, 4), X(3, 5)).tied == ("item",)
    assert found(towers, X(1, 4), X(1, 5)).tied == ("item",)
    assert found(towers, X(3, 4), X(3, 5), filter=lambda user: True).tied == ()
    assert found(lambda x, y: x + y, X(3, 4), X(3, 4)).tied == ()
    assert found(towers, X(3, 4), X(3, 5), shapes={"user": "b 4", "item": "b 5"}).tied == ()


@pytest.mark.parametrize(
    ("forward", "one", "other", "shapes"),
    [
        (lambda x, mask: x.sum(-1), (X(2, 9, 3), X(9)), (X(2, 5, 3), X(5)), ("batch x_1 3", "x_1")),
        # Eager takes a batch of one alone.
        (lambda x, mask: x.view(9, -1), (X(9, 2), X(3)), (X(9, 4), X(3)), ("9 x_1", "3")),
        # The calls tell the batch already.
        (lambda x, mask: x + mask, (X(4, 9), X(9)), (X(2, 9), X(9)), ("batch 9", "9")),
        # As of an RNN's state.
        (
            lambda x, state: x[..., :2] + state.transpose(0, 1),
            (X(2, 7, 3), X(1, 2, 2)),
            (X(2, 5, 3), X(1, 2, 2)),
            ("batch x_1 3", "1 batch 2"),
        ),
    ],
)
def test_beside_the_sizes_that_differed_between_calls_the_batch_varies(forward, one, other, shapes):
    spec = found(forward, *one, more=[Call(other)]).spec
    spec = narrow_assumed(spec, lambda call: observe(forward, call, seed=0), lambda _: None)
    assert tuple(shapes_of(spec).values()) == shapes


@pytest.mark.parametrize(
    ("other", "shape"),
    [
        (X(5, 2, 3), "5 x_1 3"),  # another batch
        (X(8, 4, 3), "batch batch_1 3"),  # another length
        (X(8, 2, 3), "batch x_1 3"),
    ],
)
def test_a_batch_may_come_second_in_recorded_calls(other, shape):
    spec = found(lambda x: LSTM(x)[0], X(5, 4, 3), more=[Call((other,))], module=LSTM).spec
    assert shapes_of(spec) == {"x": shape}


def test_a_declared_range_of_the_batch_stays():
    def attend(x, mask):
        return (x @ x.mT + mask).softmax(-1) @ x

    spec = found(attend, X(4, 4, 3), MASK, dims={"batch": (1, 3)}).spec
    assert (spec.dims["batch"].declared, spec.dims["batch"].high) == (True, 3)


MASK = torch.full((4, 4), -1e9).triu(1)
ATTENTION, LSTM = nn.MultiheadAttention(4, 2), nn.LSTM(3, 2)


def attends(x, mask):
    return ATTENTION(x, x, x, attn_mask=mask)[0]


def loses(weight, logits, target):
    return F.cross_entropy(logits, target, weight, reduction="none")


def picks(x):
    assert bool((x == 1).all())
    return LSTM(x)[0]


@pytest.mark.parametrize(
    ("forward", "given", "module", "shapes"),
    [
        # A table is no batch: the outputs do not follow it.
        (
            loses,
            (X(3).abs(), X(3, 3), torch.tensor([0, 2, 1])),
            None,
            {"weight": "3", "logits": "batch 3", "target": "batch"},
        ),
        (
            lambda table, ids: table[ids],
            (X(9, 4), torch.arange(10).view(2, 5) % 9),
            None,
            {"table": "9 4", "ids": "batch 5"},
        ),
        # A mask of the sequence, which comes first, does not hide the batch.
        (attends, (X(4, 4, 4), MASK), ATTENTION, {"x": "4 batch 4", "mask": "4 4"}),
        # Statistics of a batch are no sequence, nor is what refuses generated values.
        (lambda x: x - x.mean(0), (X(4, 3, 5),), None, {"x": "batch 3 5"}),
        (lambda x: x.cumsum(1), (X(4, 3, 5),), None, {"x": "batch 3 5"}),
        (picks, (torch.ones(5, 4, 3),), LSTM, {"x": "batch 4 3"}),
    ],
)
def test_the_axes_that_eager_takes_for_a_batch(forward, given, module, shapes):
    item = found(forward, *given, module=module)
    assert shapes_of(item.spec) == shapes
    assert item.with_sequence is None  # the mask has its length


# -- calls -----------------------------------------------------------------------------------------


def accepted_calls(function, x, **options):
    """The calls that eager takes, and the list of those that it was asked for since."""
    runs = []
    plan = Plan(target="trace", device="cpu")
    reference = Reference(Subject.of(function), plan, lambda _: None, Call((x,)))
    made = accepted.AcceptedCalls(spec_of(function, x, **options), reference, lambda _: None)
    on_cpu = reference.on_cpu

    def counted(call):
        runs.append(call)
        return on_cpu(call)

    reference.on_cpu = counted
    return made, runs


def of_patches(x):
    return x.unflatten(1, (-1, 4)).mean(-1)


def of_positive(x):
    if x.min() < 0:
        raise ValueError("negative")
    return x.sqrt()


@pytest.mark.parametrize(
    ("forward", "values", "remedy"),
    [
        (of_patches, (0, 1), 'remedy: eager takes dims={"time": range(8, 41, 4)}'),
        (of_positive, (-1, 1), "narrow the range, or say what ties"),
    ],
)
def test_a_wrong_declaration_has_the_sizes_that_eager_takes_as_its_remedy(forward, values, remedy):
    options = {"shapes": {"x": "batch time"}, "dims": {"time": (6, 40)}, "values": {"x": values}}
    made, _ = accepted_calls(forward, X(2, 16).abs(), **options)
    recipe = plain_recipe(made.spec, "uniform", {"batch": 2, "time": 6}, 0)
    with pytest.raises(SpecError) as error:
        made.call(recipe)
    assert error.value.details[-1].startswith(remedy)
