"""eager/batch_axes.py: which axes eager takes for the batch, and which modules take it second."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from specs import shapes_of, spec_of
from torch import nn

from pytest_torchexport.eager.accepted import find_batch
from pytest_torchexport.outcomes.observe import observe


def found(forward, *args, module=None, **options):
    spec = spec_of(forward, *args, **options)
    return find_batch(spec, lambda call: observe(forward, call, seed=0), module)


def shapes(forward, *args, **options):
    return shapes_of(found(forward, *args, **options).spec)


def X(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def causal(size):
    return torch.full((size, size), -1e9).triu(1)


def test_inputs_are_tied_if_eager_takes_a_batch_of_its_own_for_one():
    def towers(user, item):
        return user.sum(1), item.sum(1)

    assert found(towers, X(3, 4), X(3, 5)).tied == ("item",)
    assert found(towers, X(1, 4), X(1, 5)).tied == ("item",)
    assert found(lambda given: towers(*given), [X(3, 4), X(3, 5)]).tied == ("given[1]",)
    assert found(towers, X(3, 4), X(3, 5), filter=lambda user: True).tied == ()
    assert found(lambda x, y: x + y, X(3, 4), X(3, 4)).tied == ()
    assert found(lambda x, y: x + y, X(1, 4), X(1, 4)).tied == ()
    assert found(towers, X(3, 4), X(3, 5), shapes={"user": "b 4", "item": "b 5"}).tied == ()


# -- tensors without a batch axis ------------------------------------------------------------------


@pytest.mark.parametrize("batch", [2, 4])
def test_a_mask_has_no_batch_axis_also_if_the_batch_is_as_long(batch):
    def attend(x, mask):
        return (x @ x.mT + mask).softmax(-1) @ x

    assert shapes(attend, X(batch, 4, 3), causal(4)) == {"x": "batch 4 3", "mask": "4 4"}
    options = {"dims": {"batch": (1, 3)}}
    spec = found(attend, X(batch, 4, 3), causal(4), **options).spec
    assert (spec.dims["batch"].declared, spec.dims["batch"].high) == (True, 3)


def test_a_table_is_no_batch_because_the_outputs_do_not_follow_it():
    def loss(weight, logits, target):
        return F.cross_entropy(logits, target, weight, reduction="none")

    expected = {"weight": "3", "logits": "batch 3", "target": "batch"}
    assert shapes(loss, X(3).abs(), X(3, 3), torch.tensor([0, 2, 1])) == expected
    look_up = {"table": "9 4", "ids": "batch 5"}
    ids = torch.arange(10).view(2, 5) % 9
    assert shapes(lambda table, ids: table[ids], X(9, 4), ids) == look_up


def test_where_eager_takes_no_other_size_that_is_said():
    spec = found(lambda x, y: x.view(4, 3) @ y.view(3, 2), X(4, 3), X(3, 2)).spec
    assert spec.dims == {}
    (said,) = (item for item in spec.assumed if item.kind == "no dim")
    assert str(said).startswith("no size varies")


def test_what_the_user_said_stays():
    assert shapes(lambda x, y: x, X(4, 3), X(3), shapes={"x": "4 n"}) == {"x": "4 n", "y": "3"}


# -- sequences first -------------------------------------------------------------------------------


def recurrent(batch_first):
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 2, batch_first=batch_first)
    return lstm, lambda x, h, c: lstm(x, (h, c))


def test_a_state_has_its_batch_second():
    lstm, forward = recurrent(batch_first=True)
    state = torch.zeros(1, 4, 2)
    assert shapes(forward, X(4, 5, 3), state, state, module=lstm) == {
        "x": "batch 5 3",
        "h": "1 batch 2",
        "c": "1 batch 2",
    }


@pytest.mark.parametrize("batch", [1, 5])
def test_a_recurrent_layer_takes_the_sequence_first(batch):
    lstm, forward = recurrent(batch_first=False)
    state = torch.zeros(1, batch, 2)
    item = found(forward, X(5, batch, 3), state, state, module=lstm)
    assert shapes_of(item.spec) == {"x": "5 batch 3", "h": "1 batch 2", "c": "1 batch 2"}
    assert shapes_of(item.with_sequence)["x"] == "sequence batch 3"
    assert "dim 0 of x is a sequence" in " ".join(map(str, item.spec.assumed))


def test_a_module_that_turns_its_input_takes_the_batch_first():
    lstm, _ = recurrent(batch_first=False)
    item = found(lambda x: lstm(x.transpose(0, 1))[0], X(5, 4, 3), module=lstm)
    assert shapes_of(item.spec) == {"x": "batch 4 3"}
    assert item.with_sequence is None


def test_a_mask_of_the_sequence_does_not_hide_the_batch():
    layer = nn.MultiheadAttention(4, 2)

    def attend(x, mask):
        return layer(x, x, x, attn_mask=mask)[0]

    item = found(attend, X(5, 5, 4), causal(5), module=layer)
    assert shapes_of(item.spec) == {"x": "5 batch 4", "mask": "5 5"}
    assert item.with_sequence is None  # the mask has its length


def test_keys_of_another_length_have_their_batch_second_too():
    layer = nn.MultiheadAttention(4, 2)

    def attend(q, k):
        return layer(q, k, k)[0]

    item = found(attend, X(5, 3, 4), X(6, 3, 4), module=layer)
    assert shapes_of(item.spec) == {"q": "5 batch 4", "k": "6 batch 4"}
    assert shapes_of(item.with_sequence) == {"q": "sequence batch 4", "k": "6 batch 4"}


def test_a_scan_takes_the_sequence_first_although_nothing_says_so():
    def scan(x, mask):
        state = x[0]
        for step, keep in zip(x[1:], mask[1:], strict=True):
            state = torch.where(keep[:, None], torch.tanh(state * 0.5 + step), state)
        return state

    expected = {"x": "5 batch 3", "mask": "5 batch"}
    assert shapes(scan, X(5, 4, 3), torch.ones(5, 4, dtype=torch.bool)) == expected


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x - x.mean(0),
        lambda x: x.cumsum(1),
        lambda x: x.flatten(1).softmax(0),
    ],
)
def test_statistics_of_a_batch_are_no_sequence(forward):
    assert shapes(forward, X(4, 3, 5)) == {"x": "batch 3 5"}


def test_a_module_that_refuses_generated_values_takes_the_batch_first():
    lstm, _ = recurrent(batch_first=False)

    def picky(x):
        assert bool((x == 1).all())
        return lstm(x)[0]

    assert shapes(picky, torch.ones(5, 4, 3), module=lstm) == {"x": "batch 4 3"}
