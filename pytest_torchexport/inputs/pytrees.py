"""Pytrees as modules use them: containers in, leaves with paths out, and back again.

A call of ``forward`` is one too: the sandbox makes calls and needs no input spec.
torch's own pytree does not know dataclasses that are not registered, and registering a user's class
would change what the exporters do with it. So this is the only place that walks containers: dicts
and other mappings, lists, tuples, namedtuples, dataclasses, and what is registered with torch. An
array of numpy is one that holds a tensor: what is made of a call's tensors is made of its arrays.
"""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import enum
import hashlib
import inspect
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, Literal, TypeGuard

import torch

from pytest_torchexport.torch_private.memory import address_of, is_readable, memory_of
from pytest_torchexport.torch_private.structures import registered_nodes

Kind = Literal["leaf", "array", "mapping", "sequence", "node"]


@dataclass(frozen=True)
class Structure:
    """A pytree without its leaves. ``keys`` are path suffixes (``['a']``, ``[0]``, ``.b``)."""

    kind: Kind
    type: type
    keys: tuple[str, ...] = ()
    children: tuple[Structure, ...] = ()
    # Makes the container of its parts; never called for a leaf.
    rebuild: Callable[[Sequence[Any]], Any] = field(default=list, compare=False, repr=False)

    @property
    def count(self) -> int:
        return 1 if self.kind == "leaf" else sum(child.count for child in self.children)

    @property
    def has_nodes(self) -> bool:
        """Return True if ``rebuild`` of some container knows more than its class and its keys."""
        return self.kind == "node" or any(child.has_nodes for child in self.children)

    def unflatten(
        self,
        leaves: Iterable[Any],
        container: Callable[[Structure, list[Any]], Any] = lambda node, parts: node.rebuild(parts),
    ) -> Any:
        """Return the pytree with these leaves, in the order of ``flatten``.

        ``container`` makes each container of a part of the structure and what is in it.
        """
        return self._made(iter(leaves), container)

    # No function inside: it would refer to itself, and keep the leaves until they are collected.
    def _made(self, leaves: Iterator[Any], container: Callable[[Structure, list[Any]], Any]) -> Any:
        if self.kind == "leaf":
            return next(leaves)
        return container(self, [child._made(leaves, container) for child in self.children])

    def describe(self) -> str:
        """Return words like ``tuple of 2`` or ``dict with ['a'], ['b']``."""
        if self.kind in ("leaf", "array"):
            return self.type.__name__
        if self.kind == "mapping":
            return f"{self.type.__name__} with {', '.join(self.keys) or 'nothing'}"
        return f"{self.type.__name__} of {len(self.children)}"


Leaf = tuple[str, Any]


def flatten(value: Any, path: str = "") -> tuple[list[Leaf], Structure]:
    """Return the leaves with their paths, and the structure that puts them back."""
    leaves: list[Leaf] = []
    return leaves, _walk(value, path, leaves)


def kind_of(leaf: Any) -> Any:
    """Return the kind of a leaf: of a tensor its dtype, number of axes and layout."""
    is_tensor = isinstance(leaf, torch.Tensor)
    return (leaf.dtype, leaf.dim(), leaf.layout) if is_tensor else type(leaf)


def leaves_of(value: Any) -> list[Any]:
    """Return the leaves alone, which takes half as long: each call asks for them ten times."""
    opened = _open(value)
    if opened is None:
        return [value]
    return [leaf for part in opened[2] for leaf in leaves_of(part)]


def holders(structure: Structure) -> tuple[type | None, ...]:
    """Return per leaf the class of the container that ties it to the others in it, or None.

    Such a class checks its parts: ``PackedSequence`` refuses what is no tensor.
    """
    if structure.kind == "leaf":
        return (None,)
    if issubclass(structure.type, tuple) and hasattr(structure.type, "_fields"):
        try:
            checked: Any = structure.type
            checked(*[object()] * len(structure.children))
        except Exception:  # a user's class raises anything
            return (structure.type,) * structure.count
    return tuple(holder for child in structure.children for holder in holders(child))


def in_arrays(structure: Structure) -> tuple[bool, ...]:
    """Return a bool for each leaf: True for the tensor of an array of numpy."""
    if structure.kind in ("leaf", "array"):
        return (structure.kind == "array",)
    return tuple(each for child in structure.children for each in in_arrays(child))


def tree_map(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    leaves, structure = flatten(value)
    return structure.unflatten([function(leaf) for _, leaf in leaves])


def clone(value: Any) -> Any:
    """Return the pytree with every tensor detached and cloned; strides are kept."""
    return tree_map(lambda x: copy_tensor(x) if isinstance(x, torch.Tensor) else x, value)


def has_state(leaf: Any) -> bool:
    """Return True if an object has attributes, and is no module, class, enum or callable."""
    fixed = isinstance(leaf, (torch.nn.Module, type, enum.Enum)) or callable(leaf)
    return not fixed and bool(attributes_of(leaf))


def attributes_of(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, those in ``__slots__`` too."""
    slots = [
        name
        for cls in type(value).__mro__
        if "__slots__" in vars(cls)
        for name, each in vars(cls).items()
        if inspect.ismemberdescriptor(each) and hasattr(value, name)  # it may be unset
    ]
    return {**{name: getattr(value, name) for name in slots}, **getattr(value, "__dict__", {})}


def copy_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a detached clone that keeps strides, memory format and ``requires_grad``."""
    strided = tensor.layout == torch.strided and not tensor.is_nested
    keep = {"memory_format": torch.preserve_format} if strided else {}
    return tensor.detach().clone(**keep).requires_grad_(tensor.requires_grad)


def tiled(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return a detached copy of a shape: rows repeat as often as needed, or are zeros."""
    value = tensor.detach()
    for axis, (have, size) in enumerate(zip(tensor.shape, shape, strict=True)):
        if have != size:
            if not have:
                return torch.zeros(*shape, dtype=tensor.dtype, device=tensor.device)
            rows = torch.arange(size, device=tensor.device) % have
            value = value.index_select(axis, rows)
    return value.clone(memory_format=torch.contiguous_format)


def describe(value: Any) -> str:
    """Return ``float32[3, 10]`` for a tensor, the repr of a scalar, else the name of the type."""
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        device = "" if value.device.type == "cpu" else f" on {value.device}"
        shape = "[nested]" if value.is_nested else str(list(value.shape))
        return f"{dtype}{shape}{device}"
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return repr(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return type(value).__name__


def builtin_base(value: Any, bases: tuple[Any, ...]) -> Any:
    """Return the one of ``bases`` whose own methods read a container, None if there is none.

    A subclass may replace them, or refuse: ``len()`` of e3nn's irreps raises.
    """
    return next((base for base in bases if isinstance(value, base)), None)


def is_plain(leaf: Any) -> TypeGuard[torch.Tensor]:
    """Return True for a dense strided tensor with readable numbers, which every operator takes."""
    if not isinstance(leaf, torch.Tensor) or leaf.is_meta or leaf.is_nested:
        return False
    return leaf.layout == torch.strided and not leaf.is_quantized and is_readable(leaf)


def bits_of(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a plain tensor's elements in their order."""
    # Not by way of numpy: a tensor that has lent it its memory can never be resized again.
    flat = packed(tensor)
    return ctypes.string_at(address_of(flat), flat.numel()) if flat.numel() else b""


def hash_of(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of a plain tensor's dtype, shape and numbers in their order."""
    digest = hashlib.sha256(f"{tensor.dtype}{list(tensor.shape)}".encode())
    flat = packed(tensor)
    if flat.numel():
        # Read in place: a copy of large weights would be one more.
        memory = (ctypes.c_char * flat.numel()).from_address(address_of(flat))
        digest.update(memory)
    return digest.hexdigest()


def packed(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same as a uint8 tensor on the CPU; a contiguous one is not copied."""
    flat = tensor.detach().resolve_conj().resolve_neg().reshape(-1).cpu()
    # A single number is contiguous with any stride, and view wants 1.
    straight = flat if flat.stride() == (1,) else flat.clone(memory_format=torch.contiguous_format)
    return straight.view(torch.uint8)


def _walk(value: Any, path: str, leaves: list[Leaf]) -> Structure:
    opened = _open(value)
    if opened is None:
        leaves.append((path, value))
        return Structure("leaf", type(value))
    kind, keys, parts, rebuild = opened
    children = tuple(
        _walk(part, f"{path}{key}", leaves) for key, part in zip(keys, parts, strict=True)
    )
    return Structure(kind, type(value), keys, children, rebuild)


def _open(
    value: Any,
) -> tuple[Kind, tuple[str, ...], Sequence[Any], Callable[[Sequence[Any]], Any]] | None:
    """Return a container's kind, path suffixes, parts, and what makes it anew; None for a leaf."""
    if value is None or isinstance(value, (torch.Tensor, bool, int, float, str, bytes)):
        return None
    cls = type(value)
    parts: Sequence[Any]
    numpy = sys.modules.get("numpy")
    if numpy is not None and cls is numpy.ndarray:
        tensor = _tensor_of(value)
        return ("array", ("",), [tensor], _array_of) if tensor is not None else None
    if isinstance(value, tuple):
        parts = [*tuple.__iter__(value)]  # a subclass may refuse to be counted
        # Not cls(*parts), which may check its parts, or take others than it has fields.
        rebuild = partial(tuple.__new__, cls) if hasattr(value, "_fields") else cls
        return "sequence", _numbered(len(parts)), parts, rebuild
    node = registered_nodes().get(cls)
    if node is not None:
        parts, context = node.flatten_fn(value)
        is_mapping = isinstance(value, Mapping)
        kind: Kind = (
            "mapping" if is_mapping else "sequence" if isinstance(value, Sequence) else "node"
        )
        keys = _named(value) if is_mapping else _numbered(len(parts))
        return kind, keys, parts, lambda new: node.unflatten_fn(list(new), context)
    if isinstance(value, Mapping):
        names = tuple(value)
        parts = [value[name] for name in names]
        return "mapping", _named(names), parts, partial(_mapping, cls, names)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = tuple(field.name for field in dataclasses.fields(value))
        parts = [getattr(value, name) for name in names]
        return "mapping", _named(names), parts, partial(_dataclass, cls, names)
    return None


def _tensor_of(array: Any) -> torch.Tensor | None:
    """Return a tensor in an array's memory, or in a copy's if torch cannot write to it.

    None if torch has no such dtype.
    """
    writable = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    try:
        return torch.from_numpy(array if writable else array.copy())
    except (TypeError, ValueError):
        return None


def _array_of(parts: Sequence[Any]) -> Any:
    (part,) = parts
    if not isinstance(part, torch.Tensor):
        return part
    part = part.detach().cpu()
    return (part.float() if part.dtype == torch.bfloat16 else part).numpy()


@lru_cache
def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"[{i}]" for i in range(count))


def _named(names: Iterable[Any]) -> tuple[str, ...]:
    return tuple(f"[{name!r}]" for name in names)


def _mapping(cls: Any, names: Sequence[Any], parts: Sequence[Any]) -> Any:
    pairs = dict(zip(names, parts, strict=True))
    try:
        return cls(pairs)  # UserDict, ...
    except TypeError:
        return pairs  # its constructor takes something else


def _dataclass(cls: type, names: Sequence[str], parts: Sequence[Any]) -> Any:
    made: Any = object.__new__(cls)
    for name, part in zip(names, parts, strict=True):
        object.__setattr__(made, name, part)
    return made


@dataclass(frozen=True)
class Call:
    """One call of ``forward``: its arguments as values.

    ``origin``: of a real input, its file or its place in an iterable; else empty.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    origin: str = field(default="", compare=False)

    def clone(self) -> Call:
        """Return the same call on clones of its tensors, and copies of objects with state.

        Forward may write to such an object: a generator, a key-value cache. Objects that cannot be
        copied, modules and code are shared. A tensor given twice stays one tensor.
        """
        copies: dict[int, torch.Tensor] = {}

        def own(leaf: Any) -> Any:
            if isinstance(leaf, torch.Tensor):
                if id(leaf) not in copies:
                    copies[id(leaf)] = copy_tensor(leaf)
                return copies[id(leaf)]
            if isinstance(leaf, torch.Generator):
                return leaf.clone_state()
            if not has_state(leaf):
                return leaf
            try:
                return copy.deepcopy(leaf)
            except Exception:  # an object's own __deepcopy__ may raise anything
                return leaf

        args, kwargs = tree_map(own, (self.args, dict(self.kwargs)))
        return Call(args, kwargs, self.origin)

    def flatten(self, path: str = "") -> tuple[list[Leaf], Structure]:
        """Return the leaves of ``(args, kwargs)`` in the exporters' order, and the structure."""
        return flatten((self.args, dict(self.kwargs)), path)

    def leaves(self) -> list[Any]:
        return leaves_of((self.args, dict(self.kwargs)))

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(leaf for leaf in self.leaves() if isinstance(leaf, torch.Tensor))

    def digest(self) -> Hashable:
        """Return a key, equal only for calls that no forward can tell apart; None if unknown.

        Unknown are objects with a state, and containers that are registered with torch.
        """
        leaves, structure = self.flatten()
        facts: list[Hashable] = [structure]
        numbers: dict[object, int] = {}
        for _, leaf in leaves:
            if type(leaf) is torch.Tensor and is_plain(leaf) and not vars(leaf):
                memory = [
                    numbers.setdefault(each, len(numbers)) for each in (id(leaf), -memory_of(leaf))
                ]
                place = str(leaf.device), leaf.stride(), leaf.storage_offset(), *memory
                facts.append((hash_of(leaf), leaf.requires_grad, leaf.is_inference(), *place))
            elif leaf is None or type(leaf) in (bool, int, float, complex, str, bytes):
                facts.append(repr(leaf))
            else:
                return None
        return None if structure.has_nodes else tuple(facts)

    def describe(self) -> str:
        """Return a line like ``float32[3, 4], scale=2.0``."""
        given = [describe(leaf) for _, leaf in flatten(self.args)[0]]
        for name, value in self.kwargs.items():
            given += [f"{path}={describe(leaf)}" for path, leaf in flatten(value, name)[0]]
        return ", ".join(given) or "no arguments"

    def to(self, device: str, which: Iterable[bool] = repeat(True)) -> Call:
        """Return the same call on another device; ``which``: if so, for each of its tensors."""
        there = (type(x) is torch.Tensor and x.is_cpu and x.is_leaf for x in self.tensors())
        if device == "cpu" and all(there):
            return self
        wanted, moved = iter(which), dict[int, torch.Tensor]()

        def move(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or not next(wanted):
                return leaf
            if id(leaf) not in moved:
                moved[id(leaf)] = leaf.detach().to(device).requires_grad_(leaf.requires_grad)
            return moved[id(leaf)]

        args, kwargs = tree_map(move, (self.args, dict(self.kwargs)))
        return Call(args, kwargs, self.origin)
