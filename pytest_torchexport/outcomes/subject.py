"""The subject of a check: a module, a plain function, a bound method, or a ScriptModule.

Answers five questions for all of them: how to call it, which module holds its state, what its
signature is, how to copy it, and how to hand it to an exporter.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import inspect
import operator
import sys
import types
import typing
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import copy_tensor, is_plain
from pytest_torchexport.outcomes import cuda, errors
from pytest_torchexport.outcomes.torch_state import GradMode
from pytest_torchexport.results.failures import SpecError
from pytest_torchexport.results.source_line import is_users
from pytest_torchexport.torch_private.memory import (
    has_memory_alone,
    memory_of,
    shared_until_written,
)
from pytest_torchexport.torch_private.modules import (
    compiles_itself,
    hook_registers,
    registered,
    uncompiled,
)

# From so many bytes of parameters and buffers on, copies of a module take memory only for what is
# written to, and an item ends with a garbage collection.
LARGE_MODULE = 2**24


@dataclass(frozen=True)
class Subject:
    """``function`` is what is called; ``module`` holds its state (None for a plain function).

    ``wrappers``: what the user's object wraps around it, and what is not checked. ``grad_mode``:
    the mode in which it is called. ``is_copy``: it is not the user's own. ``is_lent``: nobody else
    uses it until all copies of it are gone. ``called_as``: the subject whose signature and
    annotations say how this one is called; None: its own.
    """

    function: Callable[..., Any]
    module: torch.nn.Module | None
    name: str
    wrappers: tuple[str, ...] = ()
    grad_mode: GradMode = GradMode.NO_GRAD
    is_copy: bool = False
    is_lent: bool = False
    called_as: Subject | None = None

    @classmethod
    def of(cls, thing: Any, grad_mode: GradMode = GradMode.NO_GRAD) -> Subject:
        """Return the subject for a user's object. Raises SpecError if it cannot be called."""
        thing, wrappers = unwrapped(thing)
        if isinstance(thing, torch.nn.Module):
            return cls(thing, thing, type(thing).__name__, wrappers, grad_mode)
        if not callable(thing):
            raise SpecError(
                f"{thing!r:.80} cannot be checked; legal: an nn.Module, a ScriptModule, a "
                "function, or a bound method of a module"
            )
        inner = thing.func if isinstance(thing, functools.partial) else thing
        owner = inner if isinstance(inner, torch.nn.Module) else getattr(inner, "__self__", None)
        name = getattr(inner, "__qualname__", None) or type(inner).__name__
        module = owner if isinstance(owner, torch.nn.Module) else None
        return cls(thing, module, name, wrappers, grad_mode)

    @property
    def root(self) -> Any:
        """The module, or the function if there is none: all that a call uses is reached from it."""
        return self.module if self.module is not None else self.function

    @property
    def scripted(self) -> bool:
        return isinstance(self.module, torch.jit.ScriptModule) or isinstance(
            self.function, torch.jit.ScriptFunction
        )

    def signature(self) -> inspect.Signature | None:
        """Return the signature that calls are bound to, or None if Python cannot tell."""
        if self.called_as is not None:
            return self.called_as.signature()
        if self.scripted:
            return _schema_signature(self._forward())
        try:
            return inspect.signature(self._forward())
        except (TypeError, ValueError):
            return None

    def source(self) -> str:
        """Return its source code, as far as Python can find it: a key for stored calls."""
        own = [] if self.function is self.module else [self.function]
        return "\n".join(
            _source_of_class(thing) if isinstance(thing, type) else _source_of(thing)
            for thing in (*self._classes(), *own)
            if not (getattr(thing, "__module__", None) or "").startswith("torch.")
        )

    def _classes(self) -> Iterable[type]:
        modules = self.module.modules() if self.module is not None else ()
        return dict.fromkeys(type(module) for module in modules)

    def annotations(self) -> Mapping[str, Any]:
        if self.called_as is not None:
            return self.called_as.annotations()
        try:
            return typing.get_type_hints(self._forward())
        except Exception:
            return getattr(self._forward(), "__annotations__", {})

    def part(self, name: str) -> Any:
        """Return the attribute of a dotted name of what is called; None if there is none."""
        owner = getattr(self.function, "__self__", self.function)
        try:
            return operator.attrgetter(name)(owner)
        except Exception:  # a property may raise anything
            return None

    def parts(self) -> list[str]:
        """Return the names of its public methods, and of its other attributes to call."""
        owner = getattr(self.function, "__self__", self.function)
        names = {*dir(owner)} - {*dir(torch.nn.Module)}
        return [name for name in names if name[0] != "_" and callable(self.part(name))]

    def copy(self) -> Subject:
        """Return a deep copy; a write to it shows in no other.

        The copies of a large copy, or of what is lent, take memory for what is written to: an item
        makes some ten.
        Raises SpecError; Ineffective if something of the machine ran out, and
        torch.OutOfMemoryError.
        """
        if self.module is None:
            function = self.function
            with contextlib.suppress(Exception):  # of its owner's own __deepcopy__
                function = copy.deepcopy(function)
            return replace(self, function=function)
        try:
            lazily = (self.is_copy or self.is_lent) and weight_of(self.module) > LARGE_MODULE
            module = copied_module(self.module, lazily=lazily, lent=not self.is_copy)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            ran_out = errors.fault(error, memory=True)
            raise ran_out or SpecError(
                f"{self.name} cannot be copied ({type(error).__name__}: {error}); "
                "checks run on copies, so that they never change your module"
            ) from error
        if module is self.module:
            raise SpecError(
                f"{self.name} cannot be copied: its __deepcopy__ returns the module itself; "
                "checks run on copies, so that they never change your module"
            )
        return self._rebound(module)

    def to(self, device: str) -> Subject:
        if self.module is not None and any(
            str(t.device) not in (device, "meta") for t in tensors_in(self.module)
        ):
            self.module.to(device)
        return self

    def packages(self) -> tuple[str, ...]:
        things = (*self._classes(), self.function)
        modules = {getattr(thing, "__module__", None) or "" for thing in things}
        tops = {name.partition(".")[0] for name in modules}
        return tuple(sorted(tops - {"", "torch", "builtins"}))

    def _forward(self) -> Callable[..., Any]:
        if self.module is not None and self.module is self.function:
            return self.module.forward
        return self.function

    def _rebound(self, module: torch.nn.Module) -> Subject:
        function = self.function
        if isinstance(function, functools.partial):
            inner = replace(self, function=function.func)._rebound(module).function
            function = functools.partial(inner, *function.args, **function.keywords)
        elif function is self.module:
            function = module
        else:
            function = getattr(module, getattr(function, "__name__", "forward"))
        return replace(self, function=function, module=module, is_copy=True)


def unwrapped(thing: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the module inside torch.compile and DataParallel, and the names of these wrappers."""
    wrappers: list[str] = []
    while True:
        inner, name = uncompiled(thing), "torch.compile"
        if type(thing) in _PARALLEL:
            inner, name = thing.module, type(thing).__name__
        if inner is thing:
            return thing, (*wrappers, *(["torch.compile"] if compiles_itself(thing) else []))
        thing = inner
        wrappers.append(name)


_PARALLEL = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)


def without(wrappers: Iterable[str]) -> str:
    """Return the sentence on the wrappers without which a subject is checked."""
    return f"checked without the {' and '.join(wrappers)} around it"


def weight_of(module: torch.nn.Module | None) -> int:
    """Return the size of its parameters and buffers, in bytes; shared memory counts once."""
    sizes: dict[int, int] = {}
    places = set()
    tensors = tensors_in(module) if module is not None and not is_lazy(module) else []
    for index, tensor in enumerate(tensors):
        number = memory_of(tensor) if is_plain(tensor) else 0
        key = number or -index - 1
        size = 0 if tensor.is_nested else tensor.numel() * tensor.itemsize
        whole = tensor.untyped_storage().nbytes() if number else size
        place = number and (tensor.storage_offset(), tensor.size(), tensor.stride(), tensor.dtype)
        if (key, place) not in places:
            sizes[key] = min(whole, sizes.get(key, 0) + size)
        places.add((key, place))
    return sum(sizes.values())


def is_lazy(module: torch.nn.Module | None) -> bool:
    """Return True if a first call has yet to make parameters or buffers."""
    tensors = tensors_in(module) if module is not None else []
    return any(torch.nn.parameter.is_lazy(tensor) for tensor in tensors)


def local_packages(root: Path) -> list[str]:
    """Return the top-level modules of this process that lie below a directory, uninstalled.

    They are the user's, and a process on another machine does not have them.
    """
    own, found = root.resolve(), []
    for name, module in list(sys.modules.items()):
        if "." in name or name in _OURS:
            continue
        namespace = list(getattr(module, "__path__", ()))
        file = getattr(module, "__file__", None) or (namespace[0] if namespace else None)
        if isinstance(file, str) and is_users(file) and Path(file).resolve().is_relative_to(own):
            found.append(name)
    return sorted(found)


# Every process has these; the package itself lies below the root in its own repository.
_OURS = frozenset({"__main__", "pytest_torchexport"})


def _source_of(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return repr(type(thing))


# Python parses the whole file for each class.
_source_of_class = functools.lru_cache(maxsize=1024)(_source_of)


def as_module(thing: Callable[..., Any]) -> torch.nn.Module:
    """Return a function or a bound method as a module, for exporters that take nothing else."""
    return thing if isinstance(thing, torch.nn.Module) else FunctionModule(thing)


def spelled_out(thing: Callable[..., Any], keywords: Iterable[str]) -> torch.nn.Module | None:
    """Return a module whose forward names every keyword of a call; None if it does already.

    torch.export 2.13 fails an assertion of its own on dynamic shapes of what ``**kwargs`` takes.
    """
    signature = signature_of(thing)
    parameters = dict(signature.parameters) if signature is not None else {}
    kinds = {item.kind: name for name, item in parameters.items()}
    rest = kinds.get(inspect.Parameter.VAR_KEYWORD)
    more = [name for name in keywords if name not in parameters]
    if rest is None or not more:
        return None
    del parameters[rest]
    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in more]
    return FunctionModule(thing, inspect.Signature([*parameters.values(), *named]))


def signature_of(thing: Callable[..., Any]) -> inspect.Signature | None:
    return Subject.of(thing).signature()


class FunctionModule(torch.nn.Module):
    """A function, a bound method, or a module under another signature, as a module.

    The owner of a method is a submodule, so that its parameters stay parameters.
    """

    def __init__(
        self, function: Callable[..., Any], signature: inspect.Signature | None = None
    ) -> None:
        super().__init__()
        self.training = False
        is_module = isinstance(function, torch.nn.Module)
        owner = function if is_module else getattr(function, "__self__", None)
        if isinstance(owner, torch.nn.Module):
            self.owner = owner
            self.training = owner.training

        def forward(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        # Exporters match dynamic_shapes and inputs with the names in forward's signature.
        signature = signature or signature_of(function)
        if signature is not None:
            forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward


def _schema_signature(forward: Any) -> inspect.Signature | None:
    """Return the signature of TorchScript's forward, from its schema.

    Python knows none of a trace, and of a script one that calls may not fit. None if an argument's
    name occurs twice, as in a trace that takes apart a structure: no call can name such arguments.
    """
    schema = getattr(forward, "schema", None)
    if schema is None:
        return None
    arguments = schema.arguments[isinstance(forward, torch.ScriptMethod) :]
    if len({item.name for item in arguments}) < len(arguments):
        return None
    parameters = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=item.default_value if item.has_default_value() else inspect.Parameter.empty,
        )
        for item in arguments
    ]
    return inspect.Signature(parameters)


def unusable_device(device: str) -> str | None:
    """Return why a device cannot be used in this process, or None."""
    if device == "cpu":
        return None
    if not torch.cuda.is_available():
        return f"device {device!r}: torch.cuda.is_available() is false here"
    index = torch.device(device).index or 0
    if index >= torch.cuda.device_count():
        return f"device {device!r}: there are only {torch.cuda.device_count()} CUDA devices here"
    if cuda.lost():
        return (
            f"device {device!r}: an earlier call made CUDA unusable in this process ({cuda.lost()})"
        )
    return None


# -- copies ----------------------------------------------------------------------------------------

Memo = dict[int, Any]


def copied_module(
    module: torch.nn.Module, *, lazily: bool = False, lent: bool = False
) -> torch.nn.Module:
    """Return a deep copy of a module. Raises whatever a part's ``__deepcopy__`` raises.

    ``lazily``: parameters take memory when they are written to, here or in the original. ``lent``:
    only those whose memory nothing but the module has, because a write to a parameter of the
    original moves it to other memory.
    """
    memo: Memo = dict(_copied_together(module, lazily=lazily, lent=lent))
    for part in module.modules():
        for value in vars(part).values():
            # An attribute computed from a parameter: deepcopy refuses tensors that are no leaves.
            if isinstance(value, torch.Tensor) and value.requires_grad and not value.is_leaf:
                memo[id(value)] = copy_tensor(value)
    with torch.no_grad():
        copied = copy.deepcopy(module, memo)
        if copied is not module:
            # A __setstate__ that calls the constructor leaves a part in training mode, as einops'.
            for part in module.modules():
                twin = memo.get(id(part))
                if isinstance(twin, torch.nn.Module) and twin.training != part.training:
                    twin.training = part.training
            own = [*copied.modules(), *tensors_in(copied)]
            memo.update((id(item), item) for item in own)  # these are not to be copied again
            for part in copied.modules():
                _unshare(part, memo)
    return copied


def tensors_in(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _copied_together(
    module: torch.nn.Module, *, lazily: bool, lent: bool
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the id and a copy of each tensor that shares memory with a parameter.

    The copies share memory too: deepcopy gives each parameter a memory of its own, and a write to
    one would no longer show in the other. ``lazily``: of parameters that share with none as well.
    """
    sharing: dict[int, dict[int, torch.Tensor]] = {}
    for tensor in tensors_in(module):
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
    if isinstance(registered(part, "modules").get("parametrizations"), torch.nn.ModuleDict):
        # torch made this class for one module, and removing a parametrization changes the class:
        # torch.jit.script does so by way of __prepare_scriptable__.
        cls = type(part)
        anew = ("__dict__", "__weakref__")  # what type() makes for each class
        own = {name: value for name, value in vars(cls).items() if name not in anew}
        part.__class__ = type(cls.__name__, cls.__bases__, own)
    registers: list[dict[Any, Any]] = [vars(part), *hook_registers(part)]
    for held in registers:
        for name, value in held.items():
            if isinstance(value, weakref.ReferenceType) and id(value()) in memo:
                held[name] = weakref.ref(memo[id(value())])
            elif isinstance(value, (types.FunctionType, functools.partial)):
                held[name] = _own_value(value, memo)


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
    if type(value) is tuple:
        return tuple(_own_value(item, memo) for item in value)
    if type(value) in (list, dict):
        own = memo[id(value)] = type(value)()  # before it is filled: it may hold itself
        if isinstance(value, list):
            own.extend(_own_value(item, memo) for item in value)
        else:
            own.update({key: _own_value(item, memo) for key, item in value.items()})
        return own
    owner = value.__self__ if isinstance(value, types.MethodType) else value
    if not isinstance(owner, _CHANGEABLE):
        return value
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # an object's own __deepcopy__ may raise anything
        return value


# Not any object: a closure may hold a trainer, or the test itself.
_CHANGEABLE = (torch.nn.Module, torch.Tensor, set, collections.deque)


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
