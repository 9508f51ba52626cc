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

from pytest_torchexport import torch_private
from pytest_torchexport.eager.fingerprint import (
    closure_of,
    is_users_module,
    names_in,
)
from pytest_torchexport.inputs.pytrees import bits_of, hash_of, is_plain
from pytest_torchexport.results.source_line import is_users

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
        self._scopes: set[tuple[int, tuple[str, ...]]] = set()
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
        elif isinstance(value, weakref.ref):
            self._all("weak reference", [value()])
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        if isinstance(value, torch.Generator):
            self._token("generator", bits_of(value.get_state()))
        elif isinstance(value, SearchStrategy):
            self._strategy(value)
        elif torch_private.is_operator(value):
            self._token("operator", str(value))
        elif isinstance(value, logging.Logger):
            self._token("logger", value.name)
        else:
            self._reduced(value)

    def _strategy(self, strategy: SearchStrategy[Any]) -> None:
        """Add how it is written: what it holds changes when it is drawn from."""
        text = repr(strategy)
        if " at 0x" in text:
            raise NoDigest(f"the strategy {text:.80}")
        self._token("strategy", text)

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
        storage = torch_private.memory_of(tensor)
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
            return
        self._all("bases", cls.__mro__[1:])
        for name, value in sorted(vars(cls).items()):
            # Of the names with underscores, those that are no functions are Python's own.
            is_own = not name.startswith(("__", "_abc_")) or isinstance(value, types.FunctionType)
            if is_own and not isinstance(value, _SLOTS):
                self._token(name)
                self._add(value)

    def _function(self, function: types.FunctionType) -> None:
        code = function.__code__
        self._token("function", function.__module__, function.__qualname__)
        self.modules.add(function.__module__ or "")
        is_library = _is_library(code.co_filename)
        if is_library and "<locals>" not in function.__qualname__:
            return  # the version of the library says what it is
        self._code(code)
        self._add(function.__defaults__)
        self._add(function.__kwdefaults__)
        self._add(vars(function))
        names = names_in(code)
        self._scope(dict(closure_of(function)), code.co_freevars, names)
        if not is_library:
            self._scope(function.__globals__, names, names)

    def _scope(
        self, scope: Mapping[str, Any], wanted: Iterable[str], names: tuple[str, ...]
    ) -> None:
        """Add the values of the wanted names; of the user's modules among them, those of ``names``.

        A test may have changed them since they were imported.
        """
        for name in sorted(wanted):
            if name not in scope:
                continue
            value = scope[name]
            self._token(name)
            self._add(value)
            if isinstance(value, types.ModuleType) and is_users_module(value):
                key = id(value), names
                if key not in self._scopes:
                    self._scopes.add(key)
                    self._scope(vars(value), names, names)

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
                self._add(wrapped)
            return
        self._token("object")
        self._add(kind)
        function, arguments, state, items, pairs = (*made[:5], None, None, None)[:5]
        self._all("made by", [function, arguments, state])
        self._all("items", () if items is None else items)
        self._all("pairs", () if pairs is None else pairs)


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


_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def _is_library(file: str) -> bool:
    """Return True for a file of a library. Code that was made from a text has none."""
    return not file.startswith("<") and not is_users(file)


def _is_of_library(cls: type) -> bool:
    """Return True if a library, or Python itself, has this class under its name."""
    module = sys.modules.get(cls.__module__)
    found: Any = module
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is not cls:
        return False  # made while the program runs, of what only it says
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return _is_library(file)
    return cls.__module__.partition(".")[0] in sys.stdlib_module_names
