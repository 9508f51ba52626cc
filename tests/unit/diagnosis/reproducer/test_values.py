"""diagnosis/reproducer/values.py: a call comes back from its source and its file, bit by bit."""

import collections

import numpy as np
import pytest
import torch

from pytest_torchexport.diagnosis.reproducer.values import Arrays, Expressions, Inexpressible
from pytest_torchexport.inputs.pytrees import bits_of
from pytest_torchexport.inputs.spec import Call

Pair = collections.namedtuple("Pair", "left right")  # noqa: PYI024


def again(call, directory):
    """The call that the written source and file give."""
    arrays = Arrays("call")
    source = Expressions(arrays).call(call)
    arrays.write(directory)
    x = {}
    if arrays.held:
        with np.load(directory / "call.npz") as file:
            for name in file:
                tensor = torch.from_numpy(file[name])
                x[name] = tensor.view(arrays.dtypes.get(name, tensor.dtype))
    return eval(source, {"x": x, "torch": torch})


DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.complex64, torch.complex128, torch.bool, torch.uint8, torch.int8, torch.int64, torch.uint16, torch.uint64,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)], ids=str)
def test_every_dtype_comes_back_bit_by_bit(tmp_path, dtype, shape):
    size = torch.Size(shape).numel() * dtype.itemsize
    bits = torch.arange(size, dtype=torch.uint8) % 2
    tensor = bits.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
    (found,), _ = again(Call((tensor,)), tmp_path)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert bits_of(found) == bits_of(tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).T,
        torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        torch.arange(12.0)[::2],
        torch.arange(3.0).expand(2, 3),
        torch.ones(2, 3).requires_grad_(),
        torch.ones(2, dtype=torch.complex64).conj(),
    ],
)
def test_strides_and_gradients_come_back(tmp_path, tensor):
    (found,), _ = again(Call((tensor,)), tmp_path)
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.stride()
    assert found.requires_grad == tensor.requires_grad


def test_containers_and_literals_come_back(tmp_path):
    call = Call(
        (None, True, 3, 1.5, "a'\"\\\n", b"\0", [1, (2,)], ()),
        {"file": torch.ones(2), "odd key\n": {1: float("inf"), "b": torch.float16}},
    )
    args, kwargs = again(call, tmp_path)
    assert args == call.args
    assert torch.equal(kwargs["file"], torch.ones(2))
    assert kwargs["odd key\n"] == {1: float("inf"), "b": torch.float16}


def test_classes_of_the_users_are_written_as_their_base(tmp_path):
    (pair,), _ = again(Call((Pair(1, 2),)), tmp_path)
    assert type(pair) is tuple


@pytest.mark.parametrize(
    "value", [object(), {object(): 1}, torch.ones(2, 2).to_sparse(), torch.empty(1, device="meta")]
)
def test_what_has_no_source_is_refused(value):
    with pytest.raises(Inexpressible):
        Expressions(Arrays("call")).call(Call((value,)))
