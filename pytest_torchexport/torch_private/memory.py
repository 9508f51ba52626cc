"""Memory of tensors: where it lies, who has it, how often it was written to.

Separate because only this file knows that torch copies memory at the first write, and how to see
and steer that without asking for an address, which copies it too.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterable, Iterator

import torch


def memory_of(tensor: torch.Tensor) -> int:
    """Return a number for the memory of a tensor, which all its views have too; 0 if it has none.

    Not ``data_ptr``, which ends the sharing of ``shared_until_written``.
    """
    number = 0
    with contextlib.suppress(Exception):  # sparse, nested, or a subclass without a storage
        storage = tensor.untyped_storage()
        if storage.nbytes():
            number = getattr(storage, "_cdata", None) or storage.data_ptr()
    return number


def is_readable(tensor: torch.Tensor) -> bool:
    """Return False for a tensor of a class without numbers in memory, as a fake one.

    Reading from where its memory should be ends the process.
    """
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return True
    try:
        storage = tensor.untyped_storage()
        return not storage.nbytes() or bool(storage.data_ptr())
    except Exception:  # of a class that wraps another tensor
        return False


def address_of(tensor: torch.Tensor) -> int:
    """Return the address of a plain tensor's first element, to read from."""
    look = getattr(torch._C, "_data_address", None)
    if look is None:
        return tensor.data_ptr()
    start: int = look(tensor)  # of its memory, which a view may begin behind
    return start + int(tensor.storage_offset()) * tensor.itemsize


def shared_until_written(tensor: torch.Tensor) -> torch.Tensor:
    """Return a detached clone that takes no memory until it or the original is written to.

    torch copies the memory at the first write to either, from Python or from a kernel; a write to
    an address that was taken before shows in both. A plain clone if torch has no ``_lazy_clone``
    that does this, of a subclass, and of a tensor that is quantized or not on the CPU, or whose
    memory is not torch's own, or numpy has it too: a file's, another process's, a loaded program's,
    whose copying at a write ends the process (torch 2.13). Not for a tensor that may be resized:
    torch 2.13 cannot write to it afterwards.
    """
    storage = tensor.untyped_storage() if _is_torchs_own(tensor) else None
    is_own = storage is not None and storage.resizable() and not storage.is_shared()
    if not is_own or tensor.is_pinned() or not _shares_until_written():
        return tensor.detach().clone()
    return torch._lazy_clone(tensor.detach())


def _is_torchs_own(tensor: torch.Tensor) -> bool:
    """Return True for a tensor on the CPU that has one memory, and no class of somebody else's."""
    kinds = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
    is_plain = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_nested)
    return type(tensor) in kinds and is_plain and tensor.device.type == "cpu"


@functools.cache
def _shares_until_written() -> bool:
    """Return True if torch can clone lazily, and a write to one of the tensors shows in no other.

    Tried once per process: nothing documents it.
    """
    if not hasattr(torch, "_lazy_clone"):
        return False
    tensor = torch.zeros(4)
    one, other = torch._lazy_clone(tensor), torch._lazy_clone(tensor)
    if len({address_of(each) for each in (tensor, one, other)}) > 1:
        return False
    one[1:].add_(1)
    tensor.data.numpy()[0] = 2
    return [tensor.tolist(), one.tolist(), other.tolist()] == [[2, 0, 0, 0], [0, 1, 1, 1], [0] * 4]


def has_memory_alone(tensor: torch.Tensor) -> bool:
    """Return True if no other tensor has the memory of this one. False if torch does not tell."""
    holders = getattr(torch._C, "_storage_Use_Count", None)
    if holders is None:
        return False
    storage = tensor.untyped_storage()
    is_alone: bool = holders(storage._cdata) == len((tensor, storage))
    return is_alone


def end_sharing(tensors: Iterable[torch.Tensor]) -> None:
    """Have tensors share their memory with no other any more.

    It stays where it is if the others are gone, and is copied if they are not.
    """
    is_shared = getattr(torch._C, "_is_cow_tensor", lambda _: True)
    for tensor in tensors:
        if _is_torchs_own(tensor) and is_shared(tensor):
            tensor.data_ptr()


@contextlib.contextmanager
def kept_shared(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Keep the memory of tensors shared until written in the block, also if asked for its address.

    For writers of files: torch has one address to read from and to write to, and copies the memory
    when it gives that. In the block a write would show in all tensors that share the memory. Does
    nothing for other tensors, and if torch does not tell which share theirs.
    """
    is_shared = getattr(torch._C, "_is_cow_tensor", None)
    look = getattr(torch._C, "_data_address", None)
    if is_shared is None or look is None:
        yield
        return
    own = [(each, each.data) for each in tensors if _is_torchs_own(each) and is_shared(each)]
    memories: dict[int, torch.UntypedStorage] = {}
    try:
        for tensor, data in own:
            number, size = memory_of(data), data.untyped_storage().nbytes()
            if number not in memories:
                plain = (ctypes.c_ubyte * size).from_address(look(data))
                memories[number] = torch.frombuffer(plain, dtype=torch.uint8).untyped_storage()
            place = data.storage_offset(), data.size(), data.stride()
            tensor.data = torch.empty(0, dtype=data.dtype).set_(memories[number], *place)
        yield
    finally:
        for tensor, data in own:
            tensor.data = data


def times_written(tensor: torch.Tensor) -> int | None:
    """Return how often a tensor was written to in place, by any view of it.

    None for a tensor of inference mode, which does not count, and if torch has no
    ``Tensor._version``. Native kernels (batch norm's running statistics) and writes by way of
    ``.data`` are not counted.
    https://docs.pytorch.org/docs/stable/notes/autograd.html#in-place-correctness-checks
    """
    try:  # asked of every tensor after every call: no look first
        return tensor._version
    except (AttributeError, RuntimeError):
        return None
