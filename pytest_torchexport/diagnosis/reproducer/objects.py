"""Write a module as Python source: its classes by name, its tensors in a file, no constructor.

How the test made it is not known, and a pickle is nothing that a person can read.
"""

from __future__ import annotations

import collections
import enum
import functools
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pytest_torchexport.diagnosis.reproducer.values import (
    Arrays,
    Expressions,
    Inexpressible,
    literal,
    quoted,
    source_of_dict,
)
from pytest_torchexport.outcomes.tape import storage_of
from pytest_torchexport.torch_private.modules import (
    buffers_of,
    children_of,
    hooks_of,
    non_persistent_of,
    parameters_of,
)

MADE = '''

def made(cls):
    """Return an object of a class, without calling its constructor."""
    thing = cls.__new__(cls)
    if isinstance(thing, torch.nn.Module):
        torch.nn.Module.__init__(thing)
    return thing
'''

MODEL = '''

def model():
    """Return the module as the test had it."""
    x = {read}
    m = {{}}
{lines}
    return m[""].to(device)
'''

_FUNCTIONS = (type, types.FunctionType, types.BuiltinFunctionType)
_UNREADABLE = (torch.jit.ScriptModule, torch.fx.GraphModule)


class Objects(Expressions):
    """Writes modules and other objects; ``lines`` make those that expressions refer to.

    ``name`` returns the source of a class or function.
    """

    def __init__(self, arrays: Arrays, name: Callable[[Any], str]) -> None:
        super().__init__(arrays)
        self.lines: list[str] = []
        self._name = name
        self._known: dict[int, str] = {}
        self._kept: list[Any] = []  # so that no other object gets the id of one of them
        self._open: set[int] = set()
        self._memory: dict[int, torch.Tensor] = {}

    def model(self, module: torch.nn.Module) -> str:
        """Return the functions that make a module. Raises Inexpressible."""
        parts = dict(module.named_modules())
        for path, part in parts.items():
            if isinstance(part, _UNREADABLE) or hooks_of(part):
                why = "is a program" if isinstance(part, _UNREADABLE) else "has hooks"
                raise Inexpressible(f"{path or 'the module'} {why}, which has no source")
            self._knows(part, f"m[{quoted(path)}]")
            self.lines.append(f"m[{quoted(path)}] = made({self._name(type(part))})")
        for path, part in parts.items():
            self.lines += self._tensors(path, part)
        for part in parts.values():
            for name, child in children_of(part).items():
                added = self._known[id(child)] if child is not None else "None"
                self.lines.append(f"{self._known[id(part)]}.add_module({quoted(name)}, {added})")
        for path, part in parts.items():
            attributes = source_of_dict(dict(self._attributes(path, part)))
            if attributes != "{}":
                self.lines.append(f"vars({self._known[id(part)]}).update({attributes})")
        still = [self._known[id(part)] for part in parts.values() if not part.training]
        if len(still) == len(parts):
            still = ["part"]
            self.lines.append("for part in m.values():")
        indent = "    " if still == ["part"] else ""
        self.lines += [f"{indent}{each}.training = False" for each in still]
        lines = "\n".join(f"    {line}" for line in self.lines)
        return MODEL.format(read=self.arrays.read(), lines=lines)

    def of(self, value: Any, path: str) -> str:
        """Return the source of a value. Raises Inexpressible."""
        known = self._known.get(id(value))
        if known is not None:
            return known
        kind: Any = type(value)
        if isinstance(value, torch.nn.Module):
            raise Inexpressible(f"{path} is a module that is no submodule")
        if isinstance(value, torch.Tensor) or kind in (dict, list, tuple):
            return super().of(value, path)
        if isinstance(value, _FUNCTIONS):
            return self._name(value)
        return self._special(value, path, kind) or self._other(value, path)

    def tensor(self, tensor: torch.Tensor, path: str) -> str:
        """Return the source of a tensor. Raises Inexpressible if it shares another one's memory."""
        memory = storage_of(tensor)
        if memory and self._memory.setdefault(memory, tensor) is not tensor:
            raise Inexpressible(f"{path} shares memory with another tensor")
        return super().tensor(tensor, path)

    def _special(self, value: Any, path: str, kind: Any) -> str:
        """Return the source of a value of a class that needs its own way; empty if it is none."""
        if kind in (set, frozenset):
            return f"{kind.__name__}({super().of(sorted(value, key=repr), path)})"
        if kind in (torch.Size, collections.OrderedDict):
            base = tuple(value) if kind is torch.Size else dict(value)
            return f"{self._name(kind)}({super().of(base, path)})"
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return f"{self._name(kind)}(*{super().of(tuple(value), path)})"
        if kind is weakref.ReferenceType and id(value()) in self._known:
            return f"{self._name(kind)}({self.of(value(), path)})"
        if isinstance(value, enum.Enum):
            return f"{self._name(kind)}[{value.name!r}]"
        if isinstance(value, types.MethodType):
            return f"{self.of(value.__self__, path)}.{value.__name__}"
        if kind is functools.partial:
            call = f"*{self.of(value.args, path)}, **{self.of(value.keywords, path)}"
            return f"{self._name(kind)}({self.of(value.func, path)}, {call})"
        return ""

    def _other(self, value: Any, path: str) -> str:
        if not _is_made_of_attributes(value) or id(value) in self._open:
            return literal(value, path)
        self._open.add(id(value))
        attributes = {key: self.of(item, f"{path}.{key}") for key, item in vars(value).items()}
        self._open.remove(id(value))
        return self._made(value, source_of_dict(attributes))

    def _made(self, value: Any, attributes: str) -> str:
        """Return the source of an object with these attributes."""
        name = f"o{len(self._kept)}"
        self.lines.append(f"{name} = made({self._name(type(value))})")
        self.lines.append(f"vars({name}).update({attributes})")
        return self._knows(value, name)

    def _knows(self, thing: Any, source: str) -> str:
        self._known[id(thing)] = source
        self._kept.append(thing)
        return source

    def _tensors(self, path: str, part: torch.nn.Module) -> Iterator[str]:
        """Yield the lines that register a module's own parameters and buffers."""
        owner = self._known[id(part)]
        left_out = non_persistent_of(part)
        for name, tensor in parameters_of(part).items():
            if tensor is not None and type(tensor) is not torch.nn.Parameter:
                raise Inexpressible(f"{path}.{name} is a {type(tensor).__name__}")
            source = self._registered(tensor, owner, path, name)
            if source.startswith("x["):
                source = f"torch.nn.Parameter({source.removesuffix('.requires_grad_()')}"
                source += ")" if tensor is not None and tensor.requires_grad else ", False)"
            yield f"{owner}.register_parameter({quoted(name)}, {source})"
        for name, tensor in buffers_of(part).items():
            source = self._registered(tensor, owner, path, name)
            more = ", persistent=False" if name in left_out else ""
            yield f"{owner}.register_buffer({quoted(name)}, {source}{more})"

    def _registered(self, tensor: torch.Tensor | None, owner: str, path: str, name: str) -> str:
        """Return the source of a tensor; of one that is registered already, where that is."""
        if tensor is None:
            return "None"
        known = self._known.get(id(tensor))
        if known is None:
            self._knows(tensor, f"getattr({owner}, {quoted(name)})")
        return known or self.tensor(tensor, f"{path}.{name}" if path else name)

    def _attributes(self, path: str, part: torch.nn.Module) -> Iterator[tuple[str, str]]:
        """Yield the attributes that a new module does not have, or has otherwise."""
        blank = vars(torch.nn.Module())
        registered = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
        for name, value in vars(part).items():
            same = name in blank and type(value) is type(blank[name]) and value == blank[name]
            if name not in registered and not same and name != "training":
                yield name, self.of(value, f"{path}.{name}" if path else name)


FILLED = '''

def filled(thing, attributes):
    """Return an object with these attributes."""
    vars(thing).update(attributes)
    return thing
'''


class Arguments(Objects):
    """Writes the values of calls: each in a single expression, with the user's own classes."""

    def tensor(self, tensor: torch.Tensor, path: str) -> str:
        """Return the source of a tensor; those of several calls may share memory."""
        return Expressions.tensor(self, tensor, path)

    def _made(self, value: Any, attributes: str) -> str:
        return f"filled(made({self._name(type(value))}), {attributes})"


def _is_made_of_attributes(value: Any) -> bool:
    """Return True if an object is its attributes, as far as copy and pickle are concerned."""
    cls = type(value)
    own = ("__reduce_ex__", "__reduce__", "__getstate__")
    usual = all(getattr(cls, name, None) is getattr(object, name, None) for name in own)
    builtin = isinstance(value, (dict, list, tuple, set, str, int, float, bytes))
    slots = any(getattr(base, "__slots__", ()) for base in cls.__mro__)
    return usual and not builtin and not slots and hasattr(value, "__dict__")
