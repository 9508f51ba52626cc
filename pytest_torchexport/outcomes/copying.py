"""Copy a module so that nothing that a call or an exporter may change is shared with the original.

Separate from ``copy.deepcopy`` because that shares what it takes for code: classes, functions and
what their closures hold, weak references; and because it refuses or splits some tensors.
"""

from __future__ import annotations

import collections
import copy
import functools
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import copy_tensor, is_plain
from pytest_torchexport.torch_private.memory import (
    has_memory_alone,
    memory_of,
    shared_until_written,
)
from pytest_torchexport.torch_private.modules import children_of, hook_registers

Memo = dict[int, Any]


def copied_module(
    module: torch.nn.Module, *, lazily: bool = False, lent: bool = False
) -> torch.nn.Module:
    """Return a deep copy of a module. Raises whatever a part's ``__deepcopy__`` raises.

    ``lazily``: parameters take memory when they are written to, here or in the original. ``lent``:
    only those whose memory nothing but the module has, because a write to a parameter of the
    original moves it to other memory.
    """
    memo: Memo = dict(_copied_together(tensors_in(module), lazily=lazily, lent=lent))
    for part in module.modules():
        for value in vars(part).values():
            # An attribute computed from a parameter: deepcopy refuses tensors that are no leaves.
            if isinstance(value, torch.Tensor) and value.requires_grad and not value.is_leaf:
                memo[id(value)] = copy_tensor(value)
    with torch.no_grad():
        copied = copy.deepcopy(module, memo)
        if copied is not module:
            _keep_modes(module, memo)
            own = [*copied.modules(), *tensors_in(copied)]
            memo.update((id(item), item) for item in own)  # these are not to be copied again
            for part in copied.modules():
                _unshare(part, memo)
    return copied


def _keep_modes(module: torch.nn.Module, memo: Memo) -> None:
    """Put each copied part into the mode of its original.

    A ``__setstate__`` that calls the constructor leaves a part in training mode: einops' layers.
    """
    for part in module.modules():
        twin = memo.get(id(part))
        if isinstance(twin, torch.nn.Module) and twin.training != part.training:
            twin.training = part.training


def tensors_in(module: torch.nn.Module) -> list[torch.Tensor]:
    """Return a module's parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def _copied_together(
    tensors: Iterable[torch.Tensor], *, lazily: bool, lent: bool
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the id and a copy of each tensor that shares memory with a parameter.

    The copies share memory too: deepcopy gives each parameter a memory of its own, and a write to
    one would no longer show in the other. ``lazily``: of parameters that share with none as well.
    """
    sharing: dict[int, dict[int, torch.Tensor]] = {}
    for tensor in tensors:
        if type(tensor) in (torch.Tensor, torch.nn.Parameter) and is_plain(tensor):
            sharing.setdefault(memory_of(tensor), {})[id(tensor)] = tensor
    for memory, group in sharing.items():
        own = any(isinstance(tensor, torch.nn.Parameter) for tensor in group.values())
        first = next(iter(group.values()))
        later = lazily and (not lent or has_memory_alone(first))
        if not memory or (len(group) == 1 and not later) or not own:
            continue
        if later:
            storage = shared_until_written(first).untyped_storage()
        else:
            storage = first.untyped_storage().clone()  # type: ignore[no-untyped-call]
        for number, tensor in group.items():
            place = tensor.storage_offset(), tensor.size(), tensor.stride()
            view = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage, *place)
            if isinstance(tensor, torch.nn.Parameter):
                view = torch.nn.Parameter(view, requires_grad=tensor.requires_grad)
            yield number, view


def _unshare(part: torch.nn.Module, memo: Memo) -> None:
    """Give a copied part classes, functions and weak references of its own."""
    # Not parametrize.is_parametrized, which runs the module's own __getattr__.
    if isinstance(children_of(part).get("parametrizations"), torch.nn.ModuleDict):
        # torch made this class for one module, and removing a parametrization changes the class:
        # torch.jit.script does so by way of __prepare_scriptable__.
        cls = type(part)
        own = {name: value for name, value in vars(cls).items() if name not in _OF_CLASSES}
        part.__class__ = type(cls.__name__, cls.__bases__, own)
    registers: list[dict[Any, Any]] = [vars(part), *hook_registers(part)]
    for held in registers:
        for name, value in held.items():
            if isinstance(value, weakref.ReferenceType) and id(value()) in memo:
                held[name] = weakref.ref(memo[id(value())])
            elif isinstance(value, (types.FunctionType, functools.partial)):
                held[name] = _own_value(value, memo)


# What ``type()`` makes anew for each class.
_OF_CLASSES = ("__dict__", "__weakref__")


def _own_value(value: Any, memo: Memo) -> Any:
    """Return a copy of what a closure or a default holds, if calls may change it; else itself.

    As in ``net.forward = lambda x: forward(x)``: deepcopy shares the lambda, and that calls the
    original's forward.
    """
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, types.FunctionType):
        holds = value.__closure__ or value.__defaults__ or value.__kwdefaults__
        return _own_function(value, memo) if holds else value
    if type(value) is functools.partial:
        keywords = {name: _own_value(item, memo) for name, item in value.keywords.items()}
        arguments = [_own_value(item, memo) for item in value.args]
        return functools.partial(_own_value(value.func, memo), *arguments, **keywords)
    if type(value) in (tuple, list, dict):
        return _own_container(value, memo)
    owner = value.__self__ if isinstance(value, types.MethodType) else value
    if not isinstance(owner, _CHANGEABLE):
        return value
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # an object's own __deepcopy__ may raise anything
        return value


# Not any object: a closure may hold a trainer, or the test itself.
_CHANGEABLE = (torch.nn.Module, torch.Tensor, set, collections.deque)


def _own_container(value: Any, memo: Memo) -> Any:
    if isinstance(value, tuple):
        return tuple(_own_value(item, memo) for item in value)
    own: Any = type(value)()
    memo[id(value)] = own  # before it is filled: it may hold itself
    if isinstance(value, list):
        own.extend(_own_value(item, memo) for item in value)
    else:
        own.update({key: _own_value(item, memo) for key, item in value.items()})
    return own


def _own_function(function: types.FunctionType, memo: Memo) -> types.FunctionType:
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    own = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, None, cells or None
    )
    memo[id(function)] = own  # before its cells are filled: a function may refer to itself
    for name in functools.WRAPPER_ASSIGNMENTS:
        setattr(own, name, getattr(function, name, None))
    vars(own).update(vars(function))
    for cell, given in zip(cells, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents = _own_value(given.cell_contents, memo)
        except ValueError:  # not yet filled
            continue
    own.__defaults__ = _own_value(function.__defaults__, memo)
    own.__kwdefaults__ = _own_value(function.__kwdefaults__, memo)
    return own
