"""Digest what a module, a function or an argument is made of, the same in every process.

Apart from ``eager/fingerprint``, whose tokens tell one object from another within a process and
pass by what it does not know: an object that is unknown here has no digest.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import logging
import sys
import types
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from hypothesis.strategies import SearchStrategy

from pytest_torchexport.cache.looked_up import Names, imported_by, names_of
from pytest_torchexport.eager.fingerprint import (
    attributes_of,
    closure_of,
    is_users_module,
)
from pytest_torchexport.inputs.pytrees import bits_of, hash_of, is_plain
from pytest_torchexport.results.source_line import is_users
from pytest_torchexport.torch_private.dispatcher import is_operator, kernels_of
from pytest_torchexport.torch_private.memory import memory_of

_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), type(Ellipsis)})


class NoDigest(Exception):
    """Something has no digest that another process would give it too. Its text says what."""


class Digest:
    """A digest of values, one after the other.

    ``modules``: the names of the modules in which their classes and functions are defined. An
    object that occurs twice differs from two equal ones, as it does to ``copy.deepcopy``.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no other object gets the id of one
        self._storages: dict[int, int] = {}
        self._scopes: set[tuple[int, Names, bool]] = set()
        self.modules: set[str] = set()

    def hexdigest(self) -> str:
        """Return the digest of what was added so far."""
        return self._hash.hexdigest()

    def add(self, value: Any) -> None:
        """Add a value and everything in it. Raises NoDigest."""
        try:
            self._add(value)
        except RecursionError:
            raise NoDigest(f"a {type(value).__name__} is nested too deeply") from None

    def add_functions_of(self, module: types.ModuleType | None) -> None:
        """Add a module's functions and plain values: nothing names those that it registers."""
        for name, value in sorted(vars(module).items()) if module is not None else ():
            is_data = type(value) in _PLAIN or isinstance(value, torch.Tensor)
            if not name.startswith("__") and (is_data or _is_users_code(value)):
                self._token(name)
                self.add(value)

    def _token(self, *words: Any) -> None:
        # A length before each, so that no two lists of words are the same bytes.
        for word in words:
            data = word if isinstance(word, bytes) else repr(word).encode(errors="surrogatepass")
            self._hash.update(b"%d:" % len(data))
            self._hash.update(data)

    def _add(self, value: Any) -> None:
        if type(value) in _PLAIN:
            self._token(type(value).__name__, value)
            return
        if type(value) in (tuple, frozenset):
            # Immutable: if two are one is up to the interpreter, which joins constants.
            self._contents(value)
        elif self._is_known(value):
            return
        elif isinstance(value, torch.Tensor):
            self._tensor(value)
        elif isinstance(value, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            raise NoDigest("a program of TorchScript")
        elif isinstance(value, torch.nn.Module):
            self._token("module")
            self._add(type(value))
            self._add(_with_hooks_in_order(value))
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.ModuleType):
            self._token("imported", value.__name__)
            self.modules.add(value.__name__)
        else:
            self._contents(value)

    def _is_known(self, value: Any) -> bool:
        number = self._numbers.get(id(value))
        if number is None:
            self._numbers[id(value)] = len(self._numbers)
            self._kept.append(value)
            return False
        self._token("again", number)
        return True

    def _all(self, name: str, values: Iterable[Any]) -> None:
        listed = list(values)
        self._token(name, len(listed))
        for value in listed:
            self._add(value)

    def _contents(self, value: Any) -> None:
        kind = type(value)
        if kind in (list, tuple):
            self._all(kind.__name__, value)
        elif kind in (dict, types.MappingProxyType):
            self._all("dict", (part for item in value.items() for part in item))
        elif kind in (set, frozenset):
            self._token(kind.__name__, *sorted(map(self._apart, value)))
        elif isinstance(value, (property, staticmethod, classmethod, functools.cached_property)):
            parts = (getattr(value, name, None) for name in ("fget", "fset", "func", "__func__"))
            self._all(kind.__name__, parts)
            if not _is_of_library(kind):
                self._attributes(value)
        elif isinstance(value, weakref.ref):
            self._all("weak reference", [value()])
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        if isinstance(value, torch.Generator):
            self._token("generator", bits_of(value.get_state()))
        elif isinstance(value, types.MethodType):
            # Not by its name: a class need not have the function that an instance was given.
            self._all("method", (value.__func__, value.__self__))
        elif isinstance(value, SearchStrategy):
            self._strategy(value)
        elif is_operator(value):
            self._token("operator", str(value))
        elif isinstance(value, torch.library.Library):
            self._token("library", value.ns)  # its kernels: see add_functions_of
        elif (kernels := kernels_of(value)) is not None:
            self._all(f"operator {value}", kernels)
        elif isinstance(value, logging.Logger):
            self._token("logger", value.name)
        else:
            self._reduced(value)

    def _strategy(self, strategy: SearchStrategy[Any]) -> None:
        """Add how it is written: what it holds changes when it is drawn from."""
        text = repr(strategy)
        if " at 0x" in text:
            raise NoDigest(f"the strategy {text:.80}")
        self._token("strategy", text, *sorted(map(self._apart, _functions_in(strategy))))

    def _apart(self, value: Any) -> str:
        """Return the digest of a member of a set, whose order differs from process to process."""
        inner = Digest()
        inner.add(value)
        self.modules |= inner.modules
        return inner.hexdigest()

    def _tensor(self, tensor: torch.Tensor) -> None:
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
            raise NoDigest(f"a tensor of the class {type(tensor).__name__}")
        self._token("tensor", type(tensor).__name__, str(tensor.dtype), str(tensor.device))
        self._token(tuple(tensor.shape), tensor.requires_grad, tensor.is_leaf)
        self._add(vars(tensor))
        if tensor.is_meta:
            self._token("meta", tensor.stride())
            return
        if not is_plain(tensor):
            raise NoDigest("a tensor that is sparse, nested or quantized")
        storage = memory_of(tensor)
        self._token(
            tensor.stride(),
            tensor.storage_offset(),
            self._storages.setdefault(storage, len(self._storages)) if storage else -1,
            hash_of(tensor),
        )

    def _class(self, cls: type) -> None:
        self._token("class", cls.__module__, cls.__qualname__)
        self.modules.add(cls.__module__)
        if _is_of_library(cls):
            patches = {name: it for name, it in vars(cls).items() if _is_users_code(it)}
            self._all("patches", (part for item in patches.items() for part in item))
            return
        self._add(type(cls))
        self._all("bases", cls.__mro__[1:])
        for name, value in sorted(vars(cls).items()):
            # Of the names with underscores, those that are neither code nor data are Python's own.
            is_code = isinstance(value, (types.FunctionType, torch.Tensor))
            is_own = not name.startswith(("__", "_abc_")) or is_code or type(value) in _PLAIN
            if is_own and not isinstance(value, _SLOTS):
                self._token(name)
                self._add(value)

    def _function(self, function: types.FunctionType) -> None:
        code = function.__code__
        self._token("function", function.__module__, function.__qualname__)
        self.modules.add(function.__module__ or "")
        is_library = _is_library(code.co_filename)
        # Not the function's own name: a wrapper of the user's function has that of the function.
        if is_library and ("<locals>" not in code.co_qualname or _is_of_library(function)):
            return  # the version of the library says what it is
        self._code(code)
        self._add(function.__defaults__)
        self._add(function.__kwdefaults__)
        self._add(vars(function))
        names = names_of(code)
        self._scope(dict(closure_of(function)), code.co_freevars, names)
        self._patches(vars(torch.Tensor), names)
        if not is_library:
            scope = function.__globals__
            self._scope(scope, _own_names(scope) if names.any_own else names.named, names)
            for module in imported_by(names, scope):
                self._module_scope(module, names)

    def _scope(self, scope: Mapping[str, Any], wanted: Iterable[str], names: Names) -> None:
        """Add the values of the wanted names; of the modules among them, those of ``names``.

        A test may have changed them since they were imported.
        """
        for name in sorted(wanted):
            if name not in scope:
                continue
            value = scope[name]
            self._token(name)
            self._add(value)
            if isinstance(value, types.ModuleType):
                self._module_scope(value, names, is_whole=name in names.modules)

    def _module_scope(
        self, module: types.ModuleType, names: Names, *, is_whole: bool = False
    ) -> None:
        key = id(module), names, is_whole
        if key in self._scopes:
            return
        self._scopes.add(key)
        scope = vars(module)
        if not is_users_module(module):
            self._patches(scope, names)
        else:
            wanted = _own_names(scope) if is_whole else names.named
            self._scope(scope, {*wanted, "__getattr__"}, names)

    def _patches(self, scope: Mapping[str, Any], names: Names) -> None:
        """Add what the user has put into the scope of a library under one of the names."""
        for name in sorted(names.named & scope.keys()):
            value = scope[name]
            if isinstance(value, types.ModuleType):
                self._module_scope(value, names)
            elif _is_users_code(value):
                self._token("patch", name)
                self._add(value)

    def _code(self, code: types.CodeType) -> None:
        self._token(code.co_code, code.co_names, code.co_varnames, code.co_freevars)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant)
            else:
                self._add(constant)

    def _reduced(self, value: Any) -> None:
        """Add what ``copy.deepcopy`` makes a copy of the object from: checks run on copies."""
        kind = type(value)
        reduce = copyreg.dispatch_table.get(kind)
        try:
            made = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        except Exception:
            raise NoDigest(f"an object of {kind.__module__}.{kind.__qualname__}") from None
        if isinstance(made, str):
            self._token("global", getattr(value, "__module__", ""), made)
            self.modules.add(getattr(value, "__module__", None) or "")
            wrapped = getattr(value, "__wrapped__", None)
            if wrapped is not None:
                _refuse_read(value, wrapped)
                self._add(wrapped)
        else:
            self._token("object")
            self._add(kind)
            function, arguments, state, items, pairs = (*made[:5], None, None, None)[:5]
            self._all("made by", [function, arguments, state])
            self._all("items", () if items is None else items)
            self._all("pairs", () if pairs is None else pairs)
        if not _is_of_library(kind) and _says_how_it_is_copied(kind):
            self._attributes(value)

    def _attributes(self, value: Any) -> None:
        self._all("attributes", (part for item in attributes_of(value) for part in item))


# The names of functions that read a file.
_READS = frozenset(
    {
        *("open", "read_text", "read_bytes", "load", "load_file", "safe_open", "urlopen"),
        *("loadtxt", "genfromtxt", "fromfile", "from_file", "memmap", "read_csv", "read_parquet"),
    }
)


def _refuse_read(memory: Any, function: Any) -> None:
    """Raise NoDigest for a ``functools.lru_cache`` that holds what a function has read."""
    info = getattr(memory, "cache_info", None)
    code = getattr(function, "__code__", None)
    if info is None or code is None or not info().currsize:
        return
    if not _READS.isdisjoint(names_of(code).named):
        raise NoDigest(f"what {function.__qualname__} has read and remembers")


def _functions_in(strategy: SearchStrategy[Any]) -> list[Any]:
    """Return the user's functions in a strategy: of ``map``, ``filter``, ``builds``."""
    seen: dict[int, Any] = {}
    waiting: list[Any] = [strategy]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, (list, tuple)):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, SearchStrategy):
            waiting += vars(value).values()
    return [value for value in seen.values() if _is_users_code(value)]


def _with_hooks_in_order(module: torch.nn.Module) -> dict[str, Any]:
    """Return a module's attributes; its hooks by their order, and not by torch's count of hooks.

    That count goes on through all modules of a process.
    """
    own = dict(vars(module))
    registers = {name: held for name, held in own.items() if _is_register(name, held)}
    numbers = sorted({number for held in registers.values() for number in held})
    for name, held in registers.items():
        own[name] = {numbers.index(number): hook for number, hook in held.items()}
    return own


def _is_register(name: str, held: Any) -> bool:
    return "hooks" in name and isinstance(held, dict) and all(type(key) is int for key in held)


def _own_names(scope: Mapping[str, Any]) -> list[str]:
    """Return the names of a module, without those that Python gives it."""
    return [name for name in scope if not name.startswith("__")]


_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def _is_library(file: str) -> bool:
    """Return True for a file of a library. Code that was made from a text has none."""
    return not file.startswith("<") and not is_users(file)


def _is_of_library(thing: type | types.FunctionType) -> bool:
    """Return True if a library, or Python itself, has a class or function under its name."""
    module = sys.modules.get(thing.__module__)
    found: Any = module
    for name in thing.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is not thing:
        return False  # made while the program runs, of what only it says
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return _is_library(file)
    return thing.__module__.partition(".")[0] in sys.stdlib_module_names


def _is_users_code(value: Any) -> bool:
    """Return True for a function or class of the user's."""
    if isinstance(value, types.FunctionType):
        return not _is_library(value.__code__.co_filename)
    return isinstance(value, type) and is_users_module(sys.modules.get(value.__module__))


def _says_how_it_is_copied(cls: type) -> bool:
    """Return True for a class of which a copy may lack attributes.

    The attributes of an object that checks do not copy count all the same: of a global, for one.
    """
    names = ("__reduce__", "__reduce_ex__", "__getstate__")
    return any(getattr(cls, name) is not getattr(object, name) for name in names)
