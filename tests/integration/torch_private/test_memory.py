"""torch_private/memory.py: memory of tensors is shared, told apart and counted as the functions say."""

import io

import pytest
import torch
from torch import nn

from pytest_torchexport.torch_private.memory import (
    _shares_until_written,
    address_of,
    end_sharing,
    has_memory_alone,
    kept_shared,
    memory_of,
    shared_until_written,
    times_written,
)


def test_memory_is_shared_until_either_is_written_to():
    tensor = torch.zeros(4)
    one, other = shared_until_written(tensor), shared_until_written(tensor)
    assert len({address_of(each) for each in (tensor, one, other)}) == 1
    assert len({memory_of(each) for each in (tensor, one, other)}) == 3
    assert memory_of(one) == memory_of(one[1:].view(1, 3))
    assert address_of(one[2:]) == address_of(one) + 8
    assert (one + tensor).tolist() == [0] * 4
    assert address_of(one) == address_of(tensor)  # reading copies nothing
    one[0] = 1
    tensor.data.fill_(2)
    other.numpy()[1] = 3
    assert [each.tolist() for each in (tensor, one, other)] == [
        [2, 2, 2, 2],
        [1, 0, 0, 0],
        [0, 3, 0, 0],
    ]


def test_memory_that_is_not_torchs_own_is_copied_at_once():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(3, 3), torch.zeros(2, 3)), buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer).weight.detach()
    array = torch.from_numpy(torch.zeros(3).numpy())
    for tensor in (loaded, array, torch.frombuffer(bytearray(8), dtype=torch.float32)):
        made = shared_until_written(tensor)
        assert address_of(made) != address_of(tensor)
        assert torch.equal(made.add_(1), tensor + 1)


class Lazily(torch.Tensor):
    pass


@pytest.mark.parametrize("make", [torch.Tensor.share_memory_, lambda it: it.as_subclass(Lazily)])
def test_a_tensor_that_cannot_be_shared_until_written_is_copied_at_once(make):
    tensor = make(torch.zeros(3))
    made = shared_until_written(tensor)
    assert type(made) is type(tensor)
    assert made.data_ptr() != tensor.data_ptr()


def test_a_torch_whose_lazy_clones_behave_otherwise_makes_plain_ones(monkeypatch):
    monkeypatch.setattr(torch, "_lazy_clone", lambda tensor: tensor[:])
    _shares_until_written.cache_clear()
    try:
        tensor = torch.zeros(4)
        shared_until_written(tensor).add_(1)
        assert tensor.tolist() == [0] * 4
    finally:
        _shares_until_written.cache_clear()


def test_memory_stays_shared_while_addresses_of_it_are_asked_for():
    tensor = torch.arange(6.0)
    one = torch.nn.Parameter(shared_until_written(tensor))
    part = one.detach()[2:].view(2, 2).t()
    with kept_shared([one, part, torch.ones(2), torch.ones(2).to_sparse()]):
        assert one.data_ptr() == one.untyped_storage().data_ptr() == address_of(tensor)
        assert part.data_ptr() == one.data_ptr() + 8
        assert one.tolist() == tensor.tolist()
        assert part.tolist() == [[2, 4], [3, 5]]
        assert one.requires_grad
    assert address_of(one) == address_of(tensor)
    with torch.no_grad():
        part.zero_()
    assert one.tolist() == [0, 1, 0, 0, 0, 0]
    assert tensor.tolist() == [0, 1, 2, 3, 4, 5]


def test_memory_is_told_to_be_a_tensors_alone():
    parameter = nn.Linear(4, 4).weight
    assert hasattr(torch._C, "_storage_Use_Count"), "torch has changed: users' modules are copied"
    assert has_memory_alone(parameter)
    parameter.sum().backward()
    assert has_memory_alone(parameter)
    other = parameter.detach()
    assert not has_memory_alone(parameter)
    del other
    held = parameter.detach().__dlpack__()
    assert not has_memory_alone(parameter)
    del held
    assert has_memory_alone(parameter)


@pytest.mark.parametrize("left", [False, True])
def test_the_end_of_sharing_moves_memory_only_if_another_has_it(left):
    tensor = torch.zeros(4)
    address = tensor.data_ptr()
    other = shared_until_written(tensor)
    if not left:
        del other
    end_sharing([tensor, torch.zeros(2).to_sparse()])
    assert (address_of(tensor) == address) is not left
    assert tensor.resize_(9).fill_(1).sum() == 9  # which shared memory does not survive


def test_a_tensor_without_memory_has_no_number():
    assert memory_of(torch.zeros(0)) == memory_of(torch.zeros(2).to_sparse()) == 0


def test_writes_to_a_tensor_are_counted_through_its_views():
    tensor = torch.zeros(3)
    before = times_written(tensor)
    tensor[1:].add_(1)
    assert (before, times_written(tensor)) == (0, 1)
    with torch.inference_mode():
        assert times_written(torch.zeros(3)) is None
