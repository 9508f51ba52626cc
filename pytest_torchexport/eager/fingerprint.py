"""Take fingerprints of a module: everything reachable from it, by place, with a token each.

Two fingerprints show what a forward changed. Separate because it walks over other people's objects:
it reads ``vars()`` and nothing that could run their code, meets cycles, and ends after
``MAX_NODES``, a tenth of which one container may have.
"""

from __future__ import annotations

import collections
import contextlib
import dis
import enum
import functools
import inspect
import itertools
import pathlib
import pickle
import random
import sys
import types
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch

from pytest_torchexport.inputs.pytrees import bits_of, builtin_base, is_plain
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.source_line import is_users
from pytest_torchexport.torch_private.memory import memory_of, times_written
from pytest_torchexport.torch_private.modules import (
    MODULE_FIELDS,
    hook_registers,
    registered,
    script_attributes,
)

MAX_NODES = 10_000
MAX_DEPTH = 12

_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), type(Ellipsis)})
# Immutable types: equal objects are the same.
_VALUES = (
    torch.device,
    torch.dtype,
    torch.layout,
    torch.memory_format,
    range,
    slice,
    pathlib.PurePath,
    enum.Enum,
)
# Compared by identity, never walked into.
_OPAQUE = (types.ModuleType, type, types.BuiltinFunctionType, types.CodeType, types.FrameType)
# Attributes of a class that run code.
_CODE = (types.FunctionType, staticmethod, classmethod, property)
_COUNTERS = (itertools.count, itertools.cycle)
_SEQUENCES = (list, tuple, collections.deque)


# -- names of places -------------------------------------------------------------------------------

Kind = Literal[
    "parameter",
    "buffer",
    "attribute",
    "class attribute",
    "closure",
    "global",
    "argument",
    "default",
    "input",
    "hooks",
    "training flag",
    "submodules",
]
# What a copy of a module shares with the module.
SHARED: tuple[Kind, ...] = ("class attribute", "closure", "global", "default")
_OF_MODULES = ("hooks", "training flag", "submodules")


class StateRef(NamedTuple):
    """One place that holds state: what kind of place it is, and the path to it.

    ``path`` starts at the checked module (``block.bn.running_mean``, ``cache['k'][0]``), for a
    class attribute at the class, and for ``argument`` and ``default`` at an index. It is empty for
    the hooks, the training flag and the submodules of the checked module itself. A NamedTuple,
    because a large module has thousands of places, and these are made faster than dataclasses.
    """

    kind: Kind
    path: str = ""

    def __str__(self) -> str:
        """Return ``buffer bn.running_mean``, ``hooks of block``, ``argument[0]``."""
        if not self.path or self.path.startswith("["):
            return self.kind + self.path
        of = " of" if self.kind in _OF_MODULES else ""
        return f"{self.kind}{of} {self.path}"

    @property
    def is_tensor_of_module(self) -> bool:
        """Return True for a parameter or a buffer, which is put back without copying the module."""
        return self.kind in ("parameter", "buffer")

    def contains(self, other: StateRef) -> bool:
        """Return True if ``other`` is an item or an attribute inside this place."""
        inside = (f"{self.path}[", f"{self.path}.")
        return self.kind == other.kind and other.path.startswith(inside)


class Change(NamedTuple):
    """A place that is not as it was, or that only one of two moments knows."""

    ref: StateRef
    happened: Literal["changed", "new", "gone"] = "changed"

    def __str__(self) -> str:
        """Return ``buffer steps``, or ``attribute cache (new)``."""
        return str(self.ref) if self.happened == "changed" else f"{self.ref} ({self.happened})"


# -- what a walk finds -----------------------------------------------------------------------------


@dataclass
class Reached:
    """The result of a walk: tokens and tensors by place, modules by path.

    ``classes``, ``scopes`` (globals, and the names of them that a function mentions), ``cells`` and
    ``containers`` are the objects that hold the places, and ``shared`` the tensors that copies of
    the subject have too.
    """

    tokens: dict[StateRef, Any] = field(default_factory=dict)
    tensors: dict[StateRef, torch.Tensor] = field(default_factory=dict)
    modules: dict[str, torch.nn.Module] = field(default_factory=dict)
    classes: list[type] = field(default_factory=list)
    scopes: list[tuple[dict[str, Any], tuple[str, ...]]] = field(default_factory=list)
    cells: list[types.CellType] = field(default_factory=list)
    containers: list[Any] = field(default_factory=list)
    shared: list[torch.Tensor] = field(default_factory=list)


def fingerprint(thing: Any, *, numbers: bool = True) -> Mapping[StateRef, Any]:
    """Return a token for each place that a module or a function reaches; equal tokens: no change.

    Parameters are compared by identity, version and shape, which is cheap; other tensors by their
    numbers, which native kernels change without a trace: one that was put back is as it was.
    Without ``numbers``, which take time, all are compared like parameters. A fingerprint keeps
    tensors alive: hold it no longer than the comparison takes.
    """
    return reach(thing, numbers=numbers).tokens


def changed(before: Mapping[StateRef, Any], after: Mapping[StateRef, Any]) -> tuple[Change, ...]:
    """Return the places whose tokens differ, or that only one side has; a grown container once."""
    found: list[StateRef] = []
    for ref in dict.fromkeys((*after, *before)):
        if ref in before and ref in after and _same(before[ref], after[ref]):
            continue
        if not any(known.contains(ref) for known in found):
            found.append(ref)
    return tuple(
        Change(ref, "new" if ref not in before else "changed" if ref in after else "gone")
        for ref in found
    )


def reach(thing: Any, *, numbers: bool = True) -> Reached:
    """Walk over everything that a module or a function reaches; ``fingerprint`` says how."""
    walk = _Walk(Subject.of(thing).module, numbers)
    walk.function(thing, 0)
    return walk.found


def held_tokens(value: Any) -> Mapping[StateRef, Any]:
    """Return a token for each place in a value that an attribute holds, as ``fingerprint`` does."""
    walk = _Walk(None, numbers=True)
    walk.value(value, StateRef("attribute"), 0)
    return walk.found.tokens


def _same(left: Any, right: Any) -> bool:
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    try:
        return bool(left == right) or bool(left != left and right != right)  # nan
    except Exception:
        return False


@dataclass(eq=False)
class _Held:
    """A token that compares by identity. Keeps the object alive: its address stays its own."""

    thing: Any
    facts: tuple[Any, ...] = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Held) or self.thing is not other.thing:
            return False
        return self.facts == other.facts

    __hash__ = None  # type: ignore[assignment]  # a token is compared, never looked up


class _Walk:
    def __init__(self, root: torch.nn.Module | None, numbers: bool) -> None:
        self.found = Reached()
        # The modules that a copy of the subject has for itself.
        self._own = {id(part) for part in root.modules()} if root is not None else set()
        self._numbers = numbers
        self._seen: dict[int, Any] = {}
        self._classes: set[type] = set()
        self._scopes: set[tuple[int, tuple[str, ...]]] = set()

    def full(self) -> bool:
        return len(self.found.tokens) >= MAX_NODES

    def put(self, ref: StateRef, token: Any) -> None:
        self.found.tokens.setdefault(ref, token)

    def first(self, thing: Any) -> bool:
        if id(thing) in self._seen:
            return False
        self._seen[id(thing)] = thing
        return True

    # -- modules -----------------------------------------------------------------------------------

    def module(self, module: torch.nn.Module, path: str, depth: int = 0) -> None:
        if self.full() or depth > 2 * MAX_DEPTH or not self.first(module):
            return
        self.found.modules[path] = module
        prefix = f"{path}." if path else ""
        own, scripted = vars(module), isinstance(module, torch.jit.ScriptModule)
        training = getattr(module, "training", None) if scripted else own.get("training")
        self.put(StateRef("training flag", path), training)
        hooks = hook_registers(module)
        self.put(StateRef("hooks", path), tuple(map(tuple, hooks)))
        # Hooks, and functions in attributes: forward, if it was replaced.
        registers: list[dict[Any, Any]] = [own, *hooks]
        for held in [value for register in registers for value in register.values()]:
            if isinstance(held, types.FunctionType):
                self.code(held, 0)
        parameters, buffers = registered(module, "parameters"), registered(module, "buffers")
        known = {*parameters, *buffers, *MODULE_FIELDS}
        given = script_attributes(module) if scripted else list(own.items())
        attributes = {name: value for name, value in given if name not in known}
        places: tuple[tuple[Kind, Mapping[str, Any]], ...] = (
            ("parameter", parameters),
            ("buffer", buffers),
            ("attribute", attributes),
        )
        for kind, values in places:
            for name, value in values.items():
                self.value(value, StateRef(kind, prefix + name), 0)
        if id(module) not in self._own:  # copies of the subject have it too
            self.found.containers += [own, parameters, buffers]
            tensors = (*parameters.values(), *buffers.values())
            self.found.shared += [tensor for tensor in tensors if tensor is not None]
        if not type(module).__module__.startswith("torch."):
            self.cls(type(module))
        children = registered(module, "modules")
        kept = tuple((name, _Held(child)) for name, child in children.items())
        self.put(StateRef("submodules", path), kept)
        for name, child in children.items():
            if child is not None:
                self.module(child, prefix + name, depth + 1)

    def cls(self, cls: type) -> None:
        """Walk over the attributes of a user's class, and the globals that its methods name."""
        for one in cls.__mro__:
            if one in self._classes or one is object or one.__module__.startswith("torch."):
                continue
            self._classes.add(one)
            self.found.classes.append(one)
            for name, value in list(vars(one).items()):
                if isinstance(value, _CODE):
                    self.code(value, 0)
                elif not name.startswith(("__", "_abc")) and _is_data(value):
                    self.value(value, StateRef("class attribute", f"{one.__name__}.{name}"), 0)

    # -- functions ---------------------------------------------------------------------------------

    def function(self, thing: Any, depth: int) -> None:
        """Walk over a module, or what a function, a partial or a bound method holds."""
        if isinstance(thing, types.MethodType) and isinstance(thing.__self__, torch.nn.Module):
            self.function(thing.__func__, depth + 1)
            thing = thing.__self__
        if isinstance(thing, torch.nn.Module):
            self.module(thing, "")
        elif depth > MAX_DEPTH or not self.first(thing):
            return
        elif isinstance(thing, functools.partial):
            self.function(thing.func, depth + 1)
            self.value(thing.args, StateRef("argument"), depth + 1)
            self.value(thing.keywords, StateRef("argument"), depth + 1)
        elif isinstance(thing, types.MethodType):
            self.value(thing.__self__, StateRef("attribute", "self"), depth + 1)
            self.function(thing.__func__, depth + 1)
        elif isinstance(thing, types.FunctionType):
            for ref, value in self._held_by(thing):
                self.value(value, ref, depth + 1)
            self.value(vars(thing), StateRef("attribute", thing.__name__), depth + 1)
            self.code(thing, depth)

    def _held_by(self, function: types.FunctionType) -> Iterator[tuple[StateRef, Any]]:
        """Yield the values in a function's closure and defaults, but for cells that are not set."""
        cells = function.__closure__ or ()
        self.found.cells += cells
        for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
            with contextlib.suppress(ValueError):
                yield StateRef("closure", name), cell.cell_contents
        for index, value in enumerate(function.__defaults__ or ()):
            yield StateRef("default", f"[{index}] of {function.__name__}"), value

    def code(self, thing: Any, depth: int) -> None:
        """Walk over the data that a user's function names, and that of functions it calls.

        That is data in its globals, its closure and its defaults. ``thing`` may be a method of any
        kind, or a property.
        """
        function = thing.fget if isinstance(thing, property) else thing
        function = getattr(function, "__func__", function)
        if not isinstance(function, types.FunctionType) or depth > MAX_DEPTH:
            return
        code = function.__code__
        if not is_users(code.co_filename) or not self.first(code):
            return
        self._scope(function.__globals__, globals_in(code), names_in(code), depth)
        self._data(self._held_by(function), depth)

    def _scope(
        self, scope: dict[str, Any], names: tuple[str, ...], attributes: tuple[str, ...], depth: int
    ) -> None:
        """Walk over the globals of these names, and these attributes of the user's modules."""
        if (id(scope), names) in self._scopes or depth > MAX_DEPTH:
            return
        self._scopes.add((id(scope), names))
        self.found.scopes.append((scope, names))
        named = {name: scope[name] for name in names if name in scope}
        self._data(((StateRef("global", name), it) for name, it in named.items()), depth)
        for value in named.values():
            if isinstance(value, types.ModuleType) and _is_users_module(value):
                self._scope(vars(value), attributes, attributes, depth + 1)

    def _data(self, items: Iterable[tuple[StateRef, Any]], depth: int) -> None:
        for ref, value in items:
            if isinstance(value, types.FunctionType):
                self.code(value, depth + 1)
            elif _is_data(value):
                self.value(value, ref, 0)
            else:
                self._keep(value)

    def _keep(self, thing: Any) -> None:
        """Keep what a user's class or object holds, to be put back; it is not compared."""
        cls = thing if isinstance(thing, type) else type(thing)
        if not _is_users_module(sys.modules.get(cls.__module__)) or not self.first(thing):
            return
        self.found.classes.append(cls)
        values = list(vars(cls).values())
        if thing is not cls:
            if _has_dict(thing):
                self.found.containers.append(vars(thing))
            values += [value for _, value in attributes_of(thing)]
        self.found.containers += filter(_is_data, values)

    # -- values ------------------------------------------------------------------------------------

    def value(self, value: Any, ref: StateRef, depth: int) -> None:
        if type(value) in _PLAIN:
            self.put(ref, value)
        elif self.full() or depth > MAX_DEPTH:
            return
        elif isinstance(value, torch.Tensor):
            self._tensor(value, ref)
        elif isinstance(value, _VALUES):
            self.put(ref, value)
        elif isinstance(value, torch.nn.Module) and id(value) not in self._own:
            name = str(ref) if ref.kind in ("argument", "default") else ref.path
            self.module(value, name, depth + 1)
        elif isinstance(value, torch.nn.Module) or not self.first(value):
            self.put(ref, _Held(value))
        else:
            self._content(value, ref, depth)

    def _tensor(self, tensor: torch.Tensor, ref: StateRef) -> None:
        if not self.first(tensor) and not ref.is_tensor_of_module:
            self.put(ref, _Held(tensor))  # another name for it
            return
        self.found.tensors.setdefault(ref, tensor)
        if ref.kind in SHARED:
            self.found.shared.append(tensor)
        by_numbers = self._numbers and not isinstance(tensor, torch.nn.Parameter)
        self.put(ref, _token_of(tensor, by_numbers))

    def _content(self, value: Any, ref: StateRef, depth: int) -> None:
        self.found.containers.append(value)
        if _has_dict(value):
            self.found.containers.append(vars(value))
        token, items = _opened(value)
        self.put(ref, token)
        for place, item in items:
            self.value(item, StateRef(ref.kind, ref.path + place), depth + 1)


def _opened(value: Any) -> tuple[Any, Iterable[tuple[str, Any]]]:
    """Return a token for a container or an object, and what it holds with the end of the path."""
    # Of these, to iterate runs no code of the user's.
    plain = isinstance(value, (dict, types.MappingProxyType))
    if isinstance(value, Mapping) and (plain or type(value).__module__ == "collections"):
        pairs = list(itertools.islice(value.items(), MAX_NODES // 10))
        keys = tuple(key if type(key) in _PLAIN else type(key) for key, _ in pairs)
        names = (f"[{i if isinstance(key, type) else repr(key)}]" for i, key in enumerate(keys))
        return (type(value), len(value), keys), zip(names, (it for _, it in pairs), strict=True)
    if (sequence := builtin_base(value, _SEQUENCES)) is not None:
        items = itertools.islice(sequence.__iter__(value), MAX_NODES // 10)
        numbered = ((f"[{index}]", item) for index, item in enumerate(items))
        return (type(value), sequence.__len__(value)), numbered
    if isinstance(value, (set, frozenset)):
        members = list(itertools.islice(value, MAX_NODES // 10))
        if all(type(member) in _PLAIN for member in members):
            return frozenset(value), ()
        modules = [member for member in members if isinstance(member, torch.nn.Module)]
        return (type(value), len(value)), ((f"[{type(it).__name__}]", it) for it in modules)
    opaque = _opaque_token(value)
    if opaque is not None:
        return opaque, ()
    return (type(value),), ((f".{name}", item) for name, item in attributes_of(value))


def _token_of(tensor: torch.Tensor, by_numbers: bool) -> Any:
    facts: tuple[Any, ...] = ()
    with contextlib.suppress(Exception):  # of a subclass; sparse, nested, fake
        facts = (times_written(tensor), tensor.dtype, tensor.device, tensor.requires_grad)
        facts = (*facts, tensor.shape, memory_of(tensor), int(tensor.storage_offset()))
        if by_numbers and is_plain(tensor):
            return (*facts[1:5], zlib.crc32(bits_of(tensor)))
    return _Held(tensor, facts)


def _opaque_token(value: Any) -> Any:
    """Return a token for an object that is not walked into; None for one with attributes."""
    if isinstance(value, _COUNTERS):
        return repr(value)
    if isinstance(value, random.Random):
        return hash(value.getstate())
    if isinstance(value, torch.Generator):
        return zlib.crc32(bits_of(value.get_state()))
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, (numpy.ndarray, numpy.generic)):
            shown = repr(value) if value.dtype.hasobject else zlib.crc32(value.tobytes())
            return (value.shape, str(value.dtype), shown)
        if isinstance(value, (numpy.random.Generator, numpy.random.RandomState)):
            return hash(pickle.dumps(value))
    # A logger, a thread or a lock records no data.
    home = (type(value).__module__ or "").partition(".")[0]
    machinery = home in sys.stdlib_module_names or home in ("torch", "numpy")
    machinery = machinery and not isinstance(value, types.SimpleNamespace)
    if isinstance(value, _OPAQUE) or callable(value) or machinery:
        return _Held(value)
    return None if _has_dict(value) or _slots(value) else _Held(value)


def _has_dict(value: Any) -> bool:
    try:
        return isinstance(object.__getattribute__(value, "__dict__"), dict)
    except Exception:
        return False


def _slots(value: Any) -> list[str]:
    return [
        name
        for cls in type(value).__mro__
        for name, item in vars(cls).items()
        if isinstance(item, types.MemberDescriptorType) and name != "__dict__"
    ]


def attributes_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of an object's own attributes, also of those in slots."""
    if _has_dict(value):
        yield from list(object.__getattribute__(value, "__dict__").items())
    for name in _slots(value):
        try:
            yield name, object.__getattribute__(value, name)
        except Exception:  # noqa: S112  # an empty slot
            continue


def _is_users_module(module: types.ModuleType | None) -> bool:
    """Return True if a module's file is the user's, and no library's."""
    file = getattr(module, "__file__", None)
    # torch.ops says "_ops.py".
    return isinstance(file, str) and pathlib.Path(file).is_absolute() and is_users(file)


def _is_data(value: Any) -> bool:
    """Return True if an attribute of a class or a global is data, not code."""
    holders = (list, dict, set, collections.deque, itertools.count)
    return type(value) in _PLAIN or isinstance(value, (*holders, torch.Tensor, torch.nn.Module))


@functools.lru_cache(maxsize=1024)
def names_in(code: types.CodeType) -> tuple[str, ...]:
    """Return the names that a function's code, and the functions inside it, mention."""
    inner = [name for const in code.co_consts if inspect.iscode(const) for name in names_in(const)]
    return tuple(dict.fromkeys((*code.co_names, *inner)))


@functools.lru_cache(maxsize=1024)
def globals_in(code: types.CodeType) -> tuple[str, ...]:
    """Return the names that a function's code, and the functions inside it, look up as globals."""
    steps = (step for step in dis.get_instructions(code) if step.opname in _OF_GLOBALS)
    inner = (globals_in(const) for const in code.co_consts if inspect.iscode(const))
    return tuple(dict.fromkeys((*(step.argval for step in steps), *itertools.chain(*inner))))


_OF_GLOBALS = ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME")
